"""Capture of work on a CUDA device.

Owns: the memory that all captured graphs share.
Does not know: what is captured.
"""

from collections.abc import Callable

import torch


class CudaCapture:
    """Captures graphs that never run at the same time. Implements `decode_graphs.Capture`."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run the work once, then capture it.

        The first run compiles kernels and makes the tables that they keep, neither of which can be
        part of a graph. Threads that load adapters go on with their own copies and allocations
        meanwhile: only what this thread does is held to the rules of a capture.
        """
        work()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay
