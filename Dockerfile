# Motet with the default model and the example adapters inside; starts without a network.
#
#   docker build -t motet .
#   docker run -p 127.0.0.1:8000:8000 -e MOTET_API_KEY=... -e MOTET_ADMIN_KEY=... motet
#
# For a GPU: build with --build-arg DEVICE=cuda, run with --gpus all. docs/operations.md has more.
ARG DEVICE=cpu

FROM python:3.11-slim AS cpu

FROM python:3.11-slim AS cuda
# Triton compiles a launcher for each of its kernels when that first runs.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

FROM ${DEVICE}
# An index with CPU builds of torch makes the CPU image several GB smaller; pip reads this name.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/app/.venv/bin:$PATH \
    MOTET_CACHE_DIR=/home/motet/cache \
    HF_HOME=/home/motet/cache/huggingface

# The OpenMP runtime that torch and Numba share (docs/decisions/0001).
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 motet
WORKDIR /app
# What is installed depends on these alone, so that a change of the code does not install it again.
COPY LICENSE README.md pyproject.toml ./
COPY deploy ./deploy
COPY motet/__init__.py ./motet/
RUN deploy/venv.sh
COPY motet ./motet
COPY examples ./examples

USER motet
RUN python -m motet.models.default_model
VOLUME /home/motet/cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "deploy/healthcheck.py"]
ENTRYPOINT ["motet", "serve"]
# Other arguments replace these. All addresses are reachable from outside, so a key must be set.
CMD ["--host", "0.0.0.0", "--adapter-dir", "examples/adapters"]
