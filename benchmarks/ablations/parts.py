"""The questions that there are.

Owns: which sides each compares, under which load, and the figures that answer it.
Does not know: servers, nor how fast this machine is.

Lengths are a part of S-LoRA's, so that a run on a CPU takes minutes: `length_scale` and durations
are the only things that differ from its generator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.ablations.plan import Part, ServerSpec, Trial, ratio
from motet.bench.measures import Summary

Summaries = Mapping[str, Summary]
Figures = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        length_scale: of S-LoRA's prompts and outputs, of 8 to 511 tokens each.
        num_closed: requests of a closed loop.
        open_s: time of arrivals of an open loop.
        num_adapters: of the part that asks about many.
    """

    length_scale: float = 0.125
    num_closed: int = 160
    open_s: float = 60.0
    num_adapters: int = 200


QUICK = Size(length_scale=0.03, num_closed=12, open_s=4.0, num_adapters=8)


def parts(size: Size) -> list[Part]:
    """All questions."""
    return [
        _many(size),
        _merge(size),
        _cluster(size),
        _abort(size),
        _unified(size),
        _prefix(size),
        _fair(size),
    ]


def capacity_parameters(size: Size) -> dict[str, Any]:
    """Of the workload by which is measured what the plain server can do."""
    return _closed(size, 5)


def _closed(size: Size, num_adapters: int) -> dict[str, Any]:
    """S-LoRA's requests, without their times: a closed loop sends each when another is done."""
    return {
        "num_adapters": num_adapters,
        "rate_per_s": float(size.num_closed),
        "duration_s": 1.0,
        "length_scale": size.length_scale,
    }


def _open(size: Size, num_adapters: int, duration_s: float) -> dict[str, Any]:
    return {
        "num_adapters": num_adapters,
        "duration_s": duration_s,
        "length_scale": size.length_scale,
    }


def _many(size: Size) -> Part:
    counts = [1, 5, size.num_adapters // 4, size.num_adapters]
    # So many requests that most adapters are asked for again: their first use is read from disk.
    size = replace(size, num_closed=4 * size.num_closed)
    trials = [Trial(name=f"n{n}", parameters=_closed(size, n)) for n in counts]

    def figures(summaries: Summaries) -> Figures:
        most = summaries[f"n{size.num_adapters}"].finished_per_s
        return {
            "throughput_most_over_n5": ratio(most, summaries["n5"].finished_per_s),
            "throughput_most_over_n1": ratio(most, summaries["n1"].finished_per_s),
        }

    return Part(
        name="many",
        question="Is throughput flat in the number of adapters?",
        trials=trials,
        figures=figures,
    )


def _merge(size: Size) -> Part:
    counts = (1, 2, 5)
    trials = [
        Trial(
            name=f"{side}-n{n}",
            server=ServerSpec(kind="s2", merges=side == "merged"),
            parameters=_closed(size, n),
        )
        for n in counts
        for side in ("batched", "merged")
    ]

    def figures(summaries: Summaries) -> Figures:
        return {
            f"merged_over_batched_n{n}": ratio(
                summaries[f"merged-n{n}"].finished_per_s, summaries[f"batched-n{n}"].finished_per_s
            )
            for n in counts
        }

    return Part(
        name="merge",
        question="Merge-and-swap or batched LoRA? Merging should win with one adapter only.",
        trials=trials,
        figures=figures,
    )


def _cluster(size: Size) -> Part:
    sizes = (2, 8, 32)
    trials = [
        Trial(
            name=f"d{d}",
            server=ServerSpec(kind="s2", policy="cluster", num_cluster_adapters=d),
            parameters=_open(size, min(32, size.num_adapters), size.open_s),
            load=1.2,
        )
        for d in sizes
    ]

    def figures(summaries: Summaries) -> Figures:
        return {
            "attainment_d8_over_d32": ratio(
                summaries["d8"].attainment, summaries["d32"].attainment
            ),
            "throughput_d8_over_d32": ratio(
                summaries["d8"].finished_per_s, summaries["d32"].finished_per_s
            ),
            **{f"attainment_d{d}": summaries[f"d{d}"].attainment for d in sizes},
        }

    return Part(
        name="cluster",
        question="Are fewer adapters in a batch worth the detour? d=32 is no clustering.",
        trials=trials,
        figures=figures,
    )


def _abort(size: Size) -> Part:
    trials = [
        Trial(
            name=policy,
            server=ServerSpec(policy=policy),
            parameters=_open(size, min(32, size.num_adapters), 1.5 * size.open_s),
            load=2.0,
        )
        for policy in ("fcfs", "slo")
    ]

    def figures(summaries: Summaries) -> Figures:
        fcfs, slo = summaries["fcfs"], summaries["slo"]
        return {
            "attainment_slo_over_fcfs": ratio(slo.attainment, fcfs.attainment),
            "attainment_slo": slo.attainment,
            "attainment_fcfs": fcfs.attainment,
            "satisfaction_slo_over_fcfs": ratio(slo.satisfaction, fcfs.satisfaction),
        }

    return Part(
        name="abort",
        question="At twice the load that can be done: early abort, or first come first served?",
        trials=trials,
        figures=figures,
    )


def _unified(size: Size) -> Part:
    # So small that adapters and KV are in each other's way.
    spec = partial(ServerSpec, kind="s2", pool_bytes=384 << 20)
    trials = [
        Trial(
            name=name,
            server=spec(adapter_share=share),
            parameters=_closed(size, size.num_adapters // 2),
        )
        for name, share in (("one-pool", None), ("half", 0.5), ("three-quarters", 0.75))
    ]

    def figures(summaries: Summaries) -> Figures:
        one = summaries["one-pool"].finished_per_s
        return {
            f"one_pool_over_{name.replace('-', '_')}": ratio(one, summaries[name].finished_per_s)
            for name in ("half", "three-quarters")
        }

    return Part(
        name="unified",
        question="One pool for adapters and KV, or a part for each?",
        trials=trials,
        figures=figures,
    )


def _prefix(size: Size) -> Part:
    parameters = {
        "duration_s": size.open_s,
        "num_adapters": 8,
        "system_tokens": (128, 257),
        "output_tokens": (8, 33),
        "turns": (1, 5),
        "think_s": 2.0,
        "max_prompt_tokens": 768,
    }
    trials = [
        Trial(
            name=name,
            server=ServerSpec(prefix_cache=is_on),
            workload="conversations",
            parameters=parameters,
            load=0.25,
        )
        for name, is_on in (("cache", True), ("no-cache", False))
    ]

    def figures(summaries: Summaries) -> Figures:
        on, off = summaries["cache"], summaries["no-cache"]
        assert on.ttft_s is not None
        assert off.ttft_s is not None
        return {
            "ttft_p50_on_over_off": ratio(on.ttft_s.p50, off.ttft_s.p50),
            "ttft_p99_on_over_off": ratio(on.ttft_s.p99, off.ttft_s.p99),
            "cached_share": ratio(on.num_cached_tokens, on.num_prompt_tokens),
        }

    return Part(
        name="prefix",
        question="What is the prefix cache worth to conversations?",
        trials=trials,
        figures=figures,
    )


def _fair(size: Size) -> Part:
    # Rates are shares of what the server can do in requests as short as those of the flood. The
    # polite tenant's are longer, and take about a third of it. Alone, the other sends nothing.
    flooded = {
        "tenants": ("flood", "polite"),
        "rates_per_s": (1.6, 0.08),
        "length_scales": (size.length_scale, 4 * size.length_scale),
        "duration_s": 1.5 * size.open_s,
    }
    alone = {**flooded, "rates_per_s": (0.0, 0.08)}
    trials = [
        Trial(
            name=f"{policy}-{name}",
            server=ServerSpec(policy=policy, has_tenants=True),
            workload="tenants",
            parameters=parameters,
            load=1.0,
        )
        for policy, name, parameters in (
            ("fair", "alone", alone),
            ("fair", "flooded", flooded),
            ("fcfs", "flooded", flooded),
        )
    ]

    def figures(summaries: Summaries) -> Figures:
        p99 = {name: _ttft_p99(summary, "polite") for name, summary in summaries.items()}
        return {
            "polite_ttft_p99_fair_over_alone": ratio(p99["fair-flooded"], p99["fair-alone"]),
            "polite_ttft_p99_fcfs_over_alone": ratio(p99["fcfs-flooded"], p99["fair-alone"]),
            "throughput_fair_over_fcfs": ratio(
                summaries["fair-flooded"].output_tokens_per_s,
                summaries["fcfs-flooded"].output_tokens_per_s,
            ),
        }

    return Part(
        name="fair",
        question="Does a polite tenant notice that another one floods?",
        trials=trials,
        figures=figures,
    )


def _ttft_p99(summary: Summary, tenant: str) -> float | None:
    ttfts = [row.ttft_s for row in summary.by_tenant if row.name == tenant]
    return None if not ttfts or ttfts[0] is None else ttfts[0].p99
