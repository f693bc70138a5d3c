"""The table of measures: a row each, a column for each run, and how the second differs.

Owns: which measures are shown, what they are called and mean, and which way is better.
Does not know: HTML.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from motet.bench.distribution import Distribution
from motet.bench.measures import Summary
from motet.bench.report.text import NOTHING, index, number, percent, seconds
from motet.bench.report.views import RunView

Better = Literal["more", "less"]
Verdict = Literal["better", "worse"]

# Of a measure's value: two runs of the same differ by as much.
LEAST_CHANGE = 0.02


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure.

    Attributes:
        better: which way is better; None if neither is.
        in_points: whether a difference is told in points of 100 instead of relative to the first.
        is_key: whether it is among the few figures at the top.
    """

    name: str
    meaning: str
    value: Callable[[Summary], float | None]
    show: Callable[[float | None], str]
    better: Better | None = None
    in_points: bool = False
    is_key: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measure of all runs.

    Attributes:
        cells: one for each run.
        change: from the first run to the second; empty with one run, or if it cannot be told.
        verdict: whether that is better; None if it is neither.
    """

    measure: Measure
    cells: Sequence[str]
    change: str = ""
    verdict: Verdict | None = None


def rows_of(views: Sequence[RunView]) -> list[Row]:
    """All measures of these runs; without those that no run can tell."""
    rows = (_row(measure, views) for measure in MEASURES)
    return [row for row in rows if any(cell != NOTHING for cell in row.cells)]


def _row(measure: Measure, views: Sequence[RunView]) -> Row:
    values = [measure.value(view.summary) for view in views]
    cells = [measure.show(value) for value in values]
    first, last = values[0], values[-1]
    if len(values) < 2 or first is None or last is None:
        return Row(measure=measure, cells=cells)
    if cells[0] == cells[-1]:
        return Row(measure=measure, cells=cells, change="same")
    change = _change(measure, first, last)
    return Row(
        measure=measure, cells=cells, change=change, verdict=_verdict(measure.better, first, last)
    )


def _verdict(better: Better | None, first: float, last: float) -> Verdict | None:
    if better is None or abs(last - first) < LEAST_CHANGE * max(abs(first), abs(last)):
        return None
    return "better" if (last > first) == (better == "more") else "worse"


def _change(measure: Measure, first: float, last: float) -> str:
    if measure.in_points:
        return _signed((last - first) * 100, "points")
    if first == 0:
        return f"from {measure.show(first)}"
    ratio = last / first
    if ratio >= 3:
        return f"\N{MULTIPLICATION SIGN} {number(ratio)}"
    return _signed((ratio - 1) * 100, "%")


def _signed(value: float, unit: str) -> str:
    return f"{value:+.1f} {unit}".replace("-", "\N{MINUS SIGN}")


def _latencies(
    name: str, meaning: str, of: Callable[[Summary], Distribution | None], *, is_key: bool = False
) -> list[Measure]:
    """The percentiles of one kind of latency; only the first is explained."""

    def measure(words: str, pick: Callable[[Distribution], float], *, first: bool) -> Measure:
        def value(summary: Summary) -> float | None:
            spread = of(summary)
            return None if spread is None else pick(spread)

        return Measure(
            name=f"{name}, {words}",
            meaning=meaning if first else "",
            value=value,
            show=seconds,
            better="less",
            is_key=is_key and words != "90th percentile",
        )

    return [
        measure("median", lambda spread: spread.p50, first=True),
        measure("90th percentile", lambda spread: spread.p90, first=False),
        measure("99th percentile", lambda spread: spread.p99, first=False),
    ]


MEASURES: Sequence[Measure] = (
    Measure(
        name="Requests asked",
        meaning="All requests that were sent.",
        value=lambda summary: summary.num_asked,
        show=number,
    ),
    Measure(
        name="finished",
        meaning="All of the answer came.",
        value=lambda summary: summary.num_finished,
        show=number,
        better="more",
    ),
    Measure(
        name="refused",
        meaning="The server said that it has no room (status 429 or 503).",
        value=lambda summary: summary.num_refused,
        show=number,
    ),
    Measure(
        name="failed",
        meaning="Everything else that is not a whole answer.",
        value=lambda summary: summary.num_failed,
        show=number,
        better="less",
    ),
    Measure(
        name="Throughput",
        meaning="Finished requests per second, until the last one had ended.",
        value=lambda summary: summary.finished_per_s,
        show=lambda value: _with_unit(value, "requests/s"),
        better="more",
        is_key=True,
    ),
    Measure(
        name="Throughput, stripped",
        meaning="The same without 20 s at the rate of sending, as S-LoRA's evaluation has it, so "
        "that start and drain weigh less.",
        value=lambda summary: summary.stripped_per_s,
        show=lambda value: _with_unit(value, "requests/s"),
        better="more",
    ),
    Measure(
        name="Output",
        meaning="Generated tokens of finished requests, per second.",
        value=lambda summary: summary.output_tokens_per_s,
        show=lambda value: _with_unit(value, "tokens/s"),
        better="more",
        is_key=True,
    ),
    Measure(
        name="SLO attainment",
        meaning="The share of all requests that finished within the SLO. Refused and failed ones "
        "are not within it.",
        value=lambda summary: summary.attainment,
        show=percent,
        better="more",
        in_points=True,
        is_key=True,
    ),
    Measure(
        name="Goodput",
        meaning="Requests within the SLO, per second.",
        value=lambda summary: summary.goodput_per_s,
        show=lambda value: _with_unit(value, "requests/s"),
        better="more",
        is_key=True,
    ),
    Measure(
        name="User satisfaction",
        meaning="S-LoRA's measure: 1 for an answer that starts at once, falling with the square of "
        "the wait to 0 at the SLO; 0 for a request without an answer; the mean of all.",
        value=lambda summary: summary.satisfaction,
        show=index,
        better="more",
        is_key=True,
    ),
    *_latencies(
        "Time to first token",
        "From sending to the first piece of the answer (TTFT). Latencies are of finished requests.",
        lambda summary: summary.ttft_s,
        is_key=True,
    ),
    *_latencies(
        "Gap between pieces",
        "Between one piece of an answer and the next (ITL), over all gaps of all answers.",
        lambda summary: summary.itl_s,
    ),
    *_latencies(
        "Time per output token",
        "Of each request, the mean time of a token after the first (TPOT).",
        lambda summary: summary.tpot_s,
    ),
    *_latencies(
        "Whole latency", "From sending to the end of the answer.", lambda summary: summary.latency_s
    ),
    *_latencies(
        "Latency per token",
        "Of each request, its whole latency over its output tokens.",
        lambda summary: summary.latency_per_token_s,
    ),
    Measure(
        name="Fairness among adapters",
        meaning="Jain's index, 1 at best: how evenly adapters got what they asked for. What each "
        "got in time is divided by its fair share, which is what it asked for if that is little, "
        "and an equal part of the rest if it is much. Where most adapters have a request or two, "
        "it comes close to the SLO attainment, since a single request is in time or it is not.",
        value=lambda summary: summary.adapter_fairness,
        show=index,
        better="more",
        is_key=True,
    ),
    Measure(
        name="Fairness among tenants",
        meaning="The same, by tenant.",
        value=lambda summary: summary.tenant_fairness,
        show=index,
        better="more",
    ),
    *_latencies(
        "Cold start: first token",
        "TTFT of each adapter's first request to finish, which may wait for its weights.",
        lambda summary: summary.first_ttft_s,
    )[::2],
    *_latencies(
        "Later requests: first token",
        "TTFT of all other requests of adapters.",
        lambda summary: summary.later_ttft_s,
    )[::2],
    Measure(
        name="Prompt tokens from a cache",
        meaning="The share of prompt tokens that the server did not have to compute.",
        value=lambda summary: (
            summary.num_cached_tokens / summary.num_prompt_tokens
            if summary.num_prompt_tokens
            else None
        ),
        show=percent,
        in_points=True,
    ),
    Measure(
        name="Running, mean",
        meaning="Requests that the server worked on at a time, by its own count.",
        value=lambda summary: summary.mean_running,
        show=number,
    ),
    Measure(
        name="Waiting, at most",
        meaning="The longest queue that the server told of.",
        value=lambda summary: summary.peak_waiting,
        show=number,
    ),
    Measure(
        name="Adapters resident, mean",
        meaning="Adapters on the device at a time.",
        value=lambda summary: summary.mean_resident_adapters,
        show=number,
    ),
)


def _with_unit(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{number(value)} {unit}"
