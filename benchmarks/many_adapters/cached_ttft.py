"""How much sooner does the first token come when the prompt's beginning is cached?

Owns: `cached_ttft_ratio`.

A system prompt of fresh random tokens with a short tail of its own for each request, one at a time,
on a server that is otherwise idle: the later ones over the first.
"""

import random
import statistics

from benchmarks.many_adapters.figures import PartReport, spread
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.plan import S1
from benchmarks.open_loop import Completion, TimedCompletion, play
from benchmarks.server_process import ServerProcess
from motet.bench.sse import Stream

_NUM_OUTPUT_TOKENS = 2


def measure_cached_ttft(lab: Lab) -> PartReport:
    """All requests are to one adapter, which is on the device before the first is timed."""
    server, plan = lab.many(), lab.plan.cached_ttft
    rng = random.Random(512)
    _ask(lab, server, lab.tokens(rng, plan.num_tail_tokens))
    first_s, later_s = [], []
    for _ in range(plan.num_prompts):
        system = lab.tokens(rng, plan.num_system_tokens)

        def ask(system: list[int] = system) -> Stream:
            return _ask(lab, server, system + lab.tokens(rng, plan.num_tail_tokens))

        first_s.append(ask().ttft_s)
        later = [ask() for _ in range(plan.num_later)]
        _check(later, plan.min_cached_tokens)
        later_s.append(statistics.median(stream.ttft_s for stream in later))
    ratio = spread([later / first for first, later in zip(first_s, later_s, strict=True)])
    return PartReport(
        figures={"cached_ttft_ratio": ratio["median"]},
        details={"ratio": ratio, "first_ttft_s": spread(first_s), "later_ttft_s": spread(later_s)},
    )


def _ask(lab: Lab, server: ServerProcess, prompt: list[int]) -> Stream:
    completion = Completion(
        model=S1.adapter_name(0), prompt=prompt, num_output_tokens=_NUM_OUTPUT_TOKENS
    )
    [answer] = play(
        server.url, [TimedCompletion(at_s=0.0, completion=completion)], lab.plan.limit_s
    )
    return answer.stream


def _check(later: list[Stream], min_cached_tokens: int) -> None:
    for stream in later:
        if stream.num_cached_tokens < min_cached_tokens:
            raise RuntimeError(
                f"{stream.num_cached_tokens} prompt tokens came from the cache, expected at least "
                f"{min_cached_tokens}."
            )
