# Every task from a fresh clone; each target makes .venv first if it is missing or out of date.
# `make` alone lists the targets.

PORT ?= 8000
USERS ?= 16
DURATION ?= 30s
ARGS ?=
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help serve test check format load bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "make %-8s %s\n", $$1, $$2 }'

serve: ## start a server with the example adapters on 127.0.0.1 (PORT=8000, ARGS="--weights int8")
	@deploy/venv.sh
	@exec $(VENV)/motet serve --port $(PORT) --adapter-dir examples/adapters $(ARGS)

test: ## run all tests, the fast ones first
	@deploy/venv.sh test
	@$(VENV)/python -m pytest -m "not slow" && $(VENV)/python -m pytest -m slow

check: ## check format, lint and types
	@deploy/venv.sh test
	@$(VENV)/ruff format --check && $(VENV)/ruff check && $(VENV)/mypy

format: ## rewrite the code in the format that `make check` wants
	@deploy/venv.sh test
	@$(VENV)/ruff check --fix && $(VENV)/ruff format

load: ## load-test a running server (PORT=8000 USERS=16 DURATION=30s ARGS="--workload zipf --loop open")
	@deploy/venv.sh load
	@exec $(VENV)/python -m locust -f benchmarks/locustfile.py --headless --only-summary \
		-u $(USERS) -r 8 -t $(DURATION) --stop-timeout 60 --host http://127.0.0.1:$(PORT) $(ARGS)

bench: ## measure throughput against transformers + PEFT (ARGS="--repeats 5")
	@deploy/venv.sh test
	@exec $(VENV)/python -m benchmarks.throughput $(ARGS)

clean: ## remove .venv and what the tools leave behind
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
