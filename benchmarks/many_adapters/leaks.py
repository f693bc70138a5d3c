"""Does anything stay behind after ten thousand loads and ten thousand requests?

Owns: `leaked_pages` and `rss_growth_mib`.

Tiny adapters are loaded and unloaded over HTTP, one after another. Then short requests go to a
changing mix of adapters and the base, on a pool and a host budget that hold only some of them, so
that pages and host copies come and go. Memory is compared with what it was after a tenth of both,
when everything that is filled once has been filled.
"""

import asyncio
import random

import psutil

from benchmarks.many_adapters.figures import PartReport
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.memory_view import MemoryView, idle_memory
from benchmarks.many_adapters.plan import MIB, S1, TINY
from benchmarks.open_loop import Completion, CompletionClient, gather_all
from benchmarks.server_process import ServerProcess

_MAX_OUTPUT_TOKENS = 2
_BASE_SHARE = 0.2


def measure_leaks(lab: Lab) -> PartReport:
    """Pages that nobody owns at the end, when idle, and growth of both processes together."""
    server, plan = lab.small(), lab.plan.leaks
    rng = random.Random(10_000)
    num_known = idle_memory(server).num_adapters_known
    warm_up = plan.warm_up_share
    _work(lab, server, rng, int(warm_up * plan.num_cycles), int(warm_up * plan.num_requests))
    before_mib = rss_mib(server.pid)
    lab.say(f"leaks: {before_mib} MiB after the warm-up")
    _work(
        lab,
        server,
        rng,
        plan.num_cycles - int(warm_up * plan.num_cycles),
        plan.num_requests - int(warm_up * plan.num_requests),
    )
    after = idle_memory(server)
    after_mib = rss_mib(server.pid)
    return PartReport(
        figures={
            "leaked_pages": leaked_pages(after),
            "rss_growth_mib": round(sum(after_mib.values()) - sum(before_mib.values()), 2),
        },
        details={
            "num_cycles": plan.num_cycles,
            "num_requests": plan.num_requests,
            "rss_mib": {"after_warm_up": before_mib, "at_end": after_mib},
            "num_adapters_known": [num_known, after.num_adapters_known],
            "pages": after.pages_as_json(),
            **after.counters.as_json(),
        },
    )


def leaked_pages(idle: MemoryView) -> int:
    """Pages of an idle pool that are neither free, nor cached, nor pinned."""
    cached = idle.num_pages_cached_prefix + idle.num_pages_cached_adapters
    return idle.num_pages_total - idle.num_pages_free - cached - idle.num_pages_pinned


def rss_mib(pid: int) -> dict[str, float]:
    """Resident memory of the API process with this id, and of its children: the engine."""
    api = psutil.Process(pid)
    engine_bytes = sum(each.memory_info().rss for each in api.children(recursive=True))
    return {
        "api": round(api.memory_info().rss / MIB, 2),
        "engine": round(engine_bytes / MIB, 2),
    }


def _work(
    lab: Lab, server: ServerProcess, rng: random.Random, num_cycles: int, num_requests: int
) -> None:
    for cycle in range(num_cycles):
        name = TINY.adapter_name(cycle % lab.plan.leaks.num_tiny_adapters)
        server.load_adapter(name, lab.tiny_dir / name)
        server.unload_adapter(name)
    lab.say(f"leaks: {num_cycles} loads and unloads done")
    asyncio.run(_request_all(lab, server, rng, num_requests))
    lab.say(f"leaks: {num_requests} requests done")


async def _request_all(
    lab: Lab, server: ServerProcess, rng: random.Random, num_requests: int
) -> None:
    """A number of requests at once, each followed by another until all have been made."""
    left = iter(range(num_requests))

    async def requests_in_turn(client: CompletionClient) -> None:
        for _ in left:
            await client.complete(_draw(lab, server, rng))

    async with asyncio.timeout(lab.plan.limit_s), CompletionClient(server.url) as client:
        num_at_once = lab.plan.leaks.num_at_once
        await gather_all(
            [asyncio.create_task(requests_in_turn(client)) for _ in range(num_at_once)]
        )


def _draw(lab: Lab, server: ServerProcess, rng: random.Random) -> Completion:
    plan = lab.plan.leaks
    is_base = rng.random() < _BASE_SHARE
    model = server.base_name if is_base else S1.adapter_name(rng.randrange(plan.num_adapters))
    return lab.completion(
        rng, model, rng.randrange(*plan.prompt_tokens), rng.randint(1, _MAX_OUTPUT_TOKENS)
    )
