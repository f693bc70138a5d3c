"""Does anybody else wait while a cold adapter is loaded?

Owns: `cold_load_itl_p99_ratio`.

Streams on the base model decode all the time. Beside them a short request comes at each gap: in
the one phase always to an adapter that was never used (disk, host, device), in the other to one of
a few of the same ranks that are on the device. The phases take turns and differ in the loading
alone.
"""

import asyncio
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from benchmarks.many_adapters.figures import PartReport, p99, spread
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.memory_view import Counters, read_memory
from benchmarks.many_adapters.plan import S2
from benchmarks.open_loop import Answer, Completion, CompletionClient, gather_all
from benchmarks.server_process import ServerProcess

_NUM_PROMPT_TOKENS = 8
_PHASES = ("resident", "cold")


def measure_cold_load(lab: Lab) -> PartReport:
    """Ratio of the p99 inter-token latencies of the streams, cold over resident."""
    server = lab.many()
    rng = random.Random(16)
    cold = iter(range(lab.plan.num_many, lab.plan.num_s2))
    first_ones = [S2.adapter_name(next(cold)) for _ in S2.ranks]  # one of each rank
    resident = cycle(first_ones)
    names: dict[str, Callable[[], str]] = {
        "resident": lambda: next(resident),
        "cold": lambda: _next_cold(cold),
    }
    itl_s: dict[str, list[list[float]]] = {phase: [] for phase in _PHASES}
    counters: dict[str, list[dict[str, Any]]] = {phase: [] for phase in _PHASES}
    for name in first_ones:
        server.pin_adapter(name)
        asyncio.run(_once(server, lab.completion(rng, name, _NUM_PROMPT_TOKENS, 1)))
    for repeat in range(lab.plan.cold_load.num_repeats):
        for phase in _PHASES if repeat % 2 == 0 else _PHASES[::-1]:
            gaps_s, done = _run_phase(lab, server, rng, names[phase])
            _check(phase, done)
            itl_s[phase].append(gaps_s)
            counters[phase].append(done.as_json())
            lab.say(f"cold load: {phase}, repeat {repeat + 1}: p99 {p99(gaps_s) * 1e3:.1f} ms")
    return _report(itl_s, counters)


def _report(
    itl_s: Mapping[str, list[list[float]]], counters: Mapping[str, list[dict[str, Any]]]
) -> PartReport:
    """From the inter-token latencies of each phase and repeat [s]."""
    p99_ratio = _ratio(itl_s, p99)
    pooled = {phase: [gap for gaps in itl_s[phase] for gap in gaps] for phase in _PHASES}
    return PartReport(
        figures={"cold_load_itl_p99_ratio": p99_ratio["median"]},
        details={
            "p99_ratio": p99_ratio,
            "median_ratio": _ratio(itl_s, statistics.median),
            "p99_ratio_all_repeats": round(p99(pooled["cold"]) / p99(pooled["resident"]), 4),
            "itl_p99_s": {phase: spread([p99(each) for each in itl_s[phase]]) for phase in _PHASES},
            "counters": counters,
        },
    )


def _ratio(
    itl_s: Mapping[str, list[list[float]]], figure: Callable[[Sequence[float]], float]
) -> dict[str, Any]:
    """A figure of the cold phase over that of the resident one, repeat by repeat."""
    pairs = zip(itl_s["cold"], itl_s["resident"], strict=True)
    return spread([figure(cold) / figure(resident) for cold, resident in pairs])


def _run_phase(
    lab: Lab, server: ServerProcess, rng: random.Random, next_name: Callable[[], str]
) -> tuple[list[float], Counters]:
    """Inter-token latencies of the streams [s], and what the server did meanwhile."""
    plan = lab.plan.cold_load
    base = server.base_name
    streams = [
        lab.completion(rng, base, _NUM_PROMPT_TOKENS, plan.num_output_tokens)
        for _ in range(plan.num_streams)
    ]

    def short() -> Completion:
        return lab.completion(rng, next_name(), _NUM_PROMPT_TOKENS, 1)

    before = read_memory(server).counters
    answers = asyncio.run(_stream_beside(server.url, streams, short, plan.gap_s, lab.plan.limit_s))
    done = read_memory(server).counters.since(before)
    return [gap_s for answer in answers for gap_s in answer.stream.itl_s], done


async def _stream_beside(
    url: str,
    streams: list[Completion],
    short: Callable[[], Completion],
    gap_s: float,
    limit_s: float,
) -> list[Answer]:
    """The answers of `streams`, beside which a short request is sent at each gap."""
    async with asyncio.timeout(limit_s), CompletionClient(url) as client:
        tasks = [asyncio.create_task(client.complete(each)) for each in streams]
        others: list[asyncio.Task[Answer]] = []
        await asyncio.sleep(gap_s)
        while not any(task.done() for task in tasks):
            others.append(asyncio.create_task(client.complete(short())))
            await asyncio.sleep(gap_s)
        answers = await gather_all([*tasks, *others])
    return answers[: len(streams)]


async def _once(server: ServerProcess, completion: Completion) -> None:
    async with CompletionClient(server.url) as client:
        await client.complete(completion)


def _next_cold(indices: Iterator[int]) -> str:
    for index in indices:
        return S2.adapter_name(index)
    raise RuntimeError("There is no adapter left that was never used: the phases took too long.")


def _check(phase: str, done: Counters) -> None:
    if (phase == "cold") != (done.num_loads > 0):
        raise RuntimeError(f"{done.num_loads} adapters were loaded in the {phase} phase.")
