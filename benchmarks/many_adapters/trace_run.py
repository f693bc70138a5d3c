"""One trace, played against one server: what came out, and what the server did for it.

Owns: from a trace to completions, and the figures of one run.
Does not know: what it is compared with.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.adapter_farm import AdapterKind
from benchmarks.machine import default_elem_bytes
from benchmarks.many_adapters.floor import AdapterUse, decode_read_bytes
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.memory_view import Counters, read_memory
from benchmarks.many_adapters.plan import TracePlan
from benchmarks.open_loop import Answer, TimedCompletion, play
from benchmarks.server_process import ServerProcess
from motet.bench.trace import TraceRequest, TraceSpec, draw_trace

_FIRST_SEED = 42  # S-LoRA's


@dataclass(frozen=True, kw_only=True)
class TraceRun:
    """A finished run.

    Attributes:
        elapsed_s: from the start of the trace to the last completion.
        counters: what the server did meanwhile.
        decode_bytes: adapter bytes that decode had to read.
        copied_bytes: adapter bytes that were written to and read from host memory and written to
            the pool, to bring adapters in.
    """

    answers: list[Answer]
    elapsed_s: float
    counters: Counters
    decode_bytes: float
    copied_bytes: float

    @property
    def requests_per_s(self) -> float:
        return len(self.answers) / self.elapsed_s

    def as_json(self) -> dict[str, Any]:
        num_output_tokens = sum(answer.stream.num_output_tokens for answer in self.answers)
        running_s = sum(answer.end_s - answer.piece_times_s[0] for answer in self.answers)
        return {
            "requests_per_s": round(self.requests_per_s, 4),
            "output_tokens_per_s": round(num_output_tokens / self.elapsed_s, 2),
            "elapsed_s": round(self.elapsed_s, 3),
            "num_adapters_asked": len({answer.completion.model for answer in self.answers}),
            "mean_decoding": round(running_s / self.elapsed_s, 2),
            "max_decoding": max_decoding(self.answers),
            "median_ttft_s": round(statistics.median(a.stream.ttft_s for a in self.answers), 3),
            "decode_bytes": round(self.decode_bytes),
            "copied_bytes": round(self.copied_bytes),
            **self.counters.as_json(),
        }


def run_trace(
    lab: Lab,
    server: ServerProcess,
    kind: AdapterKind,
    plan: TracePlan,
    num_adapters: int,
    repeat: int,
) -> TraceRun:
    """Play repeat number `repeat` of a trace; runs of one repeat differ in their adapters alone.

    Each repeat has a seed of its own, so that it asks for other adapters with other prompts.
    """
    spec = TraceSpec(
        num_adapters=num_adapters,
        rate_per_s=plan.rate_per_s,
        duration_s=plan.num_requests / plan.rate_per_s,
        prompt_tokens=plan.prompt_tokens,
        output_tokens=plan.output_tokens,
        seed=_FIRST_SEED + repeat,
    )
    trace = draw_trace(spec)
    before = read_memory(server).counters
    answers = play(server.url, _timed(lab, kind, trace, spec.seed), lab.plan.limit_s)
    counters = read_memory(server).counters.since(before)
    bytes_of = {
        kind.adapter_name(index): lab.farm.num_elems(kind, index) * default_elem_bytes()
        for index in {request.adapter_index for request in trace}
    }
    mean_bytes = statistics.mean(bytes_of[answer.completion.model] for answer in answers)
    # A read writes the host's copy; a load reads it and writes the pool.
    num_copies = counters.num_reads + 2 * counters.num_loads
    return TraceRun(
        answers=answers,
        elapsed_s=max(answer.end_s for answer in answers),
        counters=counters,
        decode_bytes=decode_read_bytes([_use(answer, bytes_of) for answer in answers]),
        copied_bytes=num_copies * mean_bytes,
    )


def max_decoding(answers: Sequence[Answer]) -> int:
    """Most requests that were between their first token and their end at once."""
    changes = [(answer.piece_times_s[0], 1) for answer in answers]
    changes += [(answer.end_s, -1) for answer in answers]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def _timed(
    lab: Lab, kind: AdapterKind, trace: Sequence[TraceRequest], seed: int
) -> list[TimedCompletion]:
    rng = random.Random(seed)
    return [
        TimedCompletion(
            at_s=request.arrival_s,
            completion=lab.completion(
                rng,
                kind.adapter_name(request.adapter_index),
                request.num_prompt_tokens,
                request.num_output_tokens,
            ),
        )
        for request in trace
    ]


def _use(answer: Answer, bytes_of: dict[str, int]) -> AdapterUse:
    return AdapterUse(
        adapter=answer.completion.model,
        adapter_bytes=bytes_of[answer.completion.model],
        num_output_tokens=answer.stream.num_output_tokens,
        piece_times_s=answer.piece_times_s,
    )
