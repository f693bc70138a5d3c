"""One file per question about speed, and what those files share. Nothing of Motet imports these."""

from motet.kernels.threads import share_cores

share_cores()  # as in the engine, and before any of them imports torch
