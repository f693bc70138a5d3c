"""Settings that must stand before numba and triton are imported."""

import os

# Waiting threads sleep: torch and numba have a pool of threads each, and a machine few cores.
# OpenMP reads this when it is loaded, which importing torch does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
