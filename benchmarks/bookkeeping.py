"""What the Python around a decode step takes: scheduling, index tensors, commit.

Owns: an engine's scheduler and runner at work over a decoder that computes nothing.
Does not know: how long a real step is.

    python -m benchmarks.bookkeeping [NUM_SEQUENCES ...]
"""

import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.engine.runner import ModelRunner
from motet.kernels.types import Kernels, load_kernels
from motet.memory.device_pool import DevicePool, row_capacity
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.unified import UnifiedMemory, unified_memory
from motet.models.context import ForwardContext
from motet.models.decoder import HiddenStates
from motet.scheduler.scheduler import Scheduler

_CPU = torch.device("cpu")
_SHAPE = ModelShape(
    num_layers=1,
    hidden_size=16,
    intermediate_size=16,
    num_heads=1,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=8,
)
_PAGE_SIZE = 16
_FIRST_PROMPT_TOKENS = 128


@dataclass(frozen=True)
class Bookkeeping:
    """Medians over steps in which every sequence decodes one token [s].

    Attributes:
        schedule_s: `Scheduler.schedule`.
        launch_s: `ModelRunner.launch` and `wait`: arrays, tensors, and the choice of the likeliest
            of 8 tokens.
        commit_s: `Scheduler.commit`.
        total_s: of all three; the median of the sums.
    """

    schedule_s: float
    launch_s: float
    commit_s: float
    total_s: float


class _NoDecoder:
    """Equal logits for every token."""

    def hidden_states(self, token_ids: Tensor, ctx: ForwardContext) -> HiddenStates:
        nothing = torch.empty(len(token_ids), 0)
        return HiddenStates(nothing, nothing)

    def logits(self, hidden: HiddenStates, logits_rows: Tensor, kernels: Kernels) -> Tensor:
        return torch.zeros(len(logits_rows), _SHAPE.vocab_size)


def measure_bookkeeping(
    num_sequences: int, num_adapters: int, *, num_steps: int = 200
) -> Bookkeeping:
    """Time the steps of greedy decodes.

    Prompts differ in length, so that pages fill up in different steps, as they do in a server.

    Args:
        num_sequences: sequences that decode together.
        num_adapters: adapters that they use in turn; 0 is the base model alone.
        num_steps: steps to time.
    """
    max_tokens = num_steps + 2 * _PAGE_SIZE
    pages_each = -(-(_FIRST_PROMPT_TOKENS + _PAGE_SIZE + max_tokens) // _PAGE_SIZE)
    num_pages = num_sequences * pages_each + num_adapters
    geometry = PageGeometry(_SHAPE, _PAGE_SIZE)
    pool = DevicePool(geometry, num_pages, torch.float32, _CPU)
    memory = unified_memory(
        geometry,
        SavingPolicy(PageCosts()),
        page_bytes=geometry.page_bytes(4),
        num_pages=num_pages,
        row_capacity=row_capacity(geometry, num_pages),
        host_budget_pages=num_pages,
    )
    digests = _resident_adapters(memory, num_adapters)
    scheduler = Scheduler(
        memory,
        max_step_tokens=num_sequences * (_FIRST_PROMPT_TOKENS + _PAGE_SIZE),
        max_running=num_sequences,
    )
    decoder: object = _NoDecoder()
    runner = ModelRunner(
        decoder,  # type: ignore[arg-type]
        pool,
        load_kernels(_CPU),
        scheduler.pages.table,
    )
    for index in range(num_sequences):
        prompt = [index] * (_FIRST_PROMPT_TOKENS + index % _PAGE_SIZE)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        digest = digests[index % num_adapters] if num_adapters else None
        scheduler.add(AddRequest(f"r{index}", prompt, sampling, digest))
    _step(scheduler, runner)  # the prompts
    times = [_step(scheduler, runner) for _ in range(num_steps)]
    schedule_s, launch_s, commit_s, total_s = (
        statistics.median(each) for each in zip(*((*t, sum(t)) for t in times), strict=True)
    )
    return Bookkeeping(schedule_s, launch_s, commit_s, total_s)


def _resident_adapters(memory: UnifiedMemory, num_adapters: int) -> list[str]:
    digests = [f"d{index}" for index in range(num_adapters)]
    for digest in digests:
        memory.residency.register(digest, num_pages=1, num_rows=1)
        memory.residency.begin_load(digest)
        memory.residency.finish_load(digest)
    return digests


def _step(scheduler: Scheduler, runner: ModelRunner) -> tuple[float, float, float]:
    start = time.perf_counter()
    batch = scheduler.schedule().batch
    scheduled = time.perf_counter()
    pending = runner.launch(batch)
    tokens, logprobs = pending.wait(), pending.logprobs()
    launched = time.perf_counter()
    scheduler.commit(batch, tokens, logprobs)
    return scheduled - start, launched - scheduled, time.perf_counter() - launched


def main() -> None:
    """Print a line for each number of sequences, without adapters and with one for each."""
    torch.set_num_threads(1)
    for num_sequences in [int(text) for text in sys.argv[1:]] or [32, 256]:
        for num_adapters in (0, num_sequences):
            took = measure_bookkeeping(num_sequences, num_adapters)
            print(
                f"{num_sequences} sequences, {num_adapters} adapters: "
                f"{took.total_s * 1e3:.3f} ms (schedule {took.schedule_s * 1e3:.3f}, "
                f"launch {took.launch_s * 1e3:.3f}, commit {took.commit_s * 1e3:.3f})"
            )


if __name__ == "__main__":
    main()
