"""The team of threads that the CPU's parallel loops run in.

Owns: which OpenMP runtime torch and Numba find.
Does not know: how many threads there should be (`engine/resolve.py`). No torch here: this has to
run before it is imported.
"""

import ctypes
import os

SYSTEM_OPENMP = "libgomp.so.1.0.0"  # the name by which Numba asks for it


def share_cores() -> None:
    """Have torch and Numba run their parallel loops in one team of threads.

    Each brings an OpenMP runtime of its own, and a team with it, whose idle threads spin on the
    cores that the other team needs. Whichever of them asks for the system's runtime finds it
    loaded, if it is loaded first. Where there is none, Numba takes its plain thread pool.
    """
    try:
        ctypes.CDLL(SYSTEM_OPENMP)
    except OSError:
        os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    else:
        os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
