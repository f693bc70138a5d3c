"""Settings that must stand before torch, numba and triton are imported."""

import os

from motet.kernels.threads import share_cores

share_cores()

import torch  # noqa: E402 - see above

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# LiteLLM else asks the network for prices when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
