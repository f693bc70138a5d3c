"""How long the device takes.

Owns: the only lines that know CUDA's graphs and events, and what stands in for them on a CPU.
Does not know: what is timed.
"""

import time
from collections.abc import Callable

import torch

_WARM_UP_ROUNDS = 2


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_times_s(
    work: Callable[[], object], device: torch.device, num_rounds: int
) -> list[float]:
    """Seconds that the device spends on `work`, round by round, without the host's launches.

    On a GPU the launches are captured once and replayed. On a CPU it is the wall time.

    Args:
        work: launches kernels and waits for nothing. It should move many times the bytes that the
            caches hold, or a replay finds there what the last one left.
    """
    if device.type != "cuda":
        return [_wall_s(work) for _ in range(num_rounds)]
    replay = _captured(work, device)
    for _ in range(_WARM_UP_ROUNDS):
        replay()
    return [_between_events_s(replay) for _ in range(num_rounds)]


def _captured(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Launches all that `work` launches, at once. Compiling and tables come before the capture."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def _between_events_s(run: Callable[[], None]) -> float:
    start, end = _event(), _event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _wall_s(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
