"""How long a decode step and a prefill take, and how sides take turns.

Owns: what counts as a step, and which turn does not count.
Does not know: what is compared.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.plan import EnginePlan

Digests = Sequence[str | None]
"""The adapter of each sequence of a batch; None is the base model."""


def decode_step_s(lab: EngineLab, digests: Digests, plan: EnginePlan) -> float:
    """Mean wall time of a step in which each sequence decodes one token.

    Raises:
        RuntimeError: the steps were others: a sequence was preempted, or waited.
    """
    num_decodes = 4 * (plan.num_warm_up_steps + plan.num_steps)  # more than enough
    ids = [lab.add_request(plan.num_prompt_tokens, num_decodes, digest) for digest in digests]
    num_before = 1 + plan.num_warm_up_steps
    lab.step_until(lambda: all(lab.num_tokens[each] >= num_before for each in ids))
    before = lab.total_tokens
    lab.synchronize()
    start_s = time.perf_counter()
    for _ in range(plan.num_steps):
        lab.step()
    lab.synchronize()
    elapsed_s = time.perf_counter() - start_s
    num_tokens = lab.total_tokens - before
    lab.abort(ids)
    if num_tokens != plan.num_steps * len(ids):
        raise RuntimeError(f"{num_tokens} tokens of {len(ids)} sequences in {plan.num_steps} steps")
    return elapsed_s / plan.num_steps


def prefill_s(lab: EngineLab, digests: Digests, num_tokens: int) -> float:
    """Wall time from the first request to all first tokens."""
    lab.synchronize()
    start_s = time.perf_counter()
    for digest in digests:
        lab.add_request(num_tokens // len(digests), 1, digest)
    lab.finish()
    lab.synchronize()
    return time.perf_counter() - start_s


def in_turns(sides: Mapping[str, Callable[[], float]], num_repeats: int) -> dict[str, list[float]]:
    """Each side's times, the first of which does not count; the order turns round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(num_repeats + 1):
        names = list(sides)[:: 1 if repeat % 2 else -1]
        for name in names:
            times[name].append(sides[name]())
    return {name: of_side[1:] for name, of_side in times.items()}
