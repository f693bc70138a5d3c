"""Plots of what was asked and answered over time.

Owns: requests and tokens a second, and each request's wait by when it was sent.
Does not know: how plots are put into a page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from motet.bench.distribution import Distribution
from motet.bench.report import series
from motet.bench.report.plots import (
    SHORTEST_S,
    Plot,
    Sketch,
    legend,
    number_axis,
    plain_time,
    time_scale,
)
from motet.bench.report.text import number, seconds
from motet.bench.report.theme import LIGHT
from motet.bench.report.views import RunView

MAX_DOTS = 1200
MAX_CROSSES = 400
SLO_LINE: Mapping[str, Any] = {"color": LIGHT["muted"], "linestyle": "dashdot", "linewidth": 1.2}
CROSS_HEIGHT = 0.97  # of the plot: refused requests have no wait to be drawn at


def finished_over_time(views: Sequence[RunView]) -> Plot:
    """Requests sent and finished a second."""
    edges_s = series.bin_edges(_end_s(views))
    sketch = Sketch(
        key="finished-over-time",
        title="Requests sent and finished, over time",
        reading="Solid or dashed: finished each second. Dotted: sent each second. Where the dotted "
        "line stays above, requests come faster than they are answered, and wait.",
        views=views,
        has_data=lambda view: view.columns.num_requests > 0,
        no_data="No request was sent.",
        facts=lambda view: f"{number(view.summary.finished_per_s)} finished a second.",
    )

    def draw(axes: Axes, view: RunView) -> None:
        columns = view.columns
        axes.stairs(
            series.rates(columns.sent_s, edges_s),
            edges_s,
            baseline=None,
            color=view.colour,
            linestyle=":",
            linewidth=1.2,
            label=f"{view.label}: sent",
        )
        axes.stairs(
            series.rates(columns.ended_s[columns.is_finished], edges_s),
            edges_s,
            baseline=None,
            color=view.colour,
            linestyle=view.dashes,
            linewidth=1.8,
            label=f"{view.label}: finished",
        )

    return sketch.overlaid(draw, lambda axes: _finish_rates(axes, "requests / s"))


def tokens_over_time(views: Sequence[RunView]) -> Plot:
    """Output tokens a second."""
    edges_s = series.bin_edges(_end_s(views))
    sketch = Sketch(
        key="tokens-over-time",
        title="Output tokens per second, over time",
        reading="How much text comes out altogether. It should be flat while there is enough to "
        "do; dips are moments in which the server did something else.",
        views=views,
        has_data=lambda view: bool(view.summary.num_output_tokens),
        no_data="No output token came.",
        facts=lambda view: f"{number(view.summary.output_tokens_per_s)} output tokens a second.",
    )

    def draw(axes: Axes, view: RunView) -> None:
        times_s, tokens = series.tokens_over_time(view.run.requests)
        axes.stairs(
            series.rates(times_s, edges_s, tokens),
            edges_s,
            baseline=None,
            color=view.colour,
            linestyle=view.dashes,
            linewidth=1.8,
            label=view.label,
        )

    return sketch.overlaid(draw, lambda axes: _finish_rates(axes, "output tokens / s"))


def wait_by_arrival(views: Sequence[RunView]) -> Plot:
    """The TTFT of each request, by when it was sent."""
    answered = [view.columns.ttft_s for view in views if _has_first_tokens(view)]
    slos_s = [view.info.slo.ttft_s for view in views]
    sketch = Sketch(
        key="wait-by-arrival",
        title="Wait for the first token, by when the request was sent",
        reading="Each dot is a request; higher is a longer wait (logarithmic scale). Below the "
        "dash-dotted line is in time. A cloud that climbs is a queue that grows. Crosses at the "
        f"top were refused or failed. Of many requests, {MAX_DOTS:,} dots and {MAX_CROSSES} "
        "crosses are shown, evenly chosen.",
        views=views,
        has_data=_has_first_tokens,
        no_data="No first token came.",
        facts=lambda view: (
            f"{view.summary.num_refused} refused, {view.summary.num_failed} failed; "
            f"{latency_facts(view.summary.ttft_s)}"
        ),
    )

    def draw(axes: Axes, view: RunView) -> None:
        columns, order = view.columns, series.in_time_order(view.columns)
        has_wait = columns.is_finished & ~np.isnan(columns.ttft_s)
        dots = order[has_wait[order]]
        dots = dots[series.thin_indices(len(dots), MAX_DOTS)]
        axes.plot(
            columns.sent_s[dots],
            np.maximum(columns.ttft_s[dots], SHORTEST_S),
            linestyle="none",
            marker="o",
            markersize=2.6,
            markeredgewidth=0,
            alpha=0.6,
            color=view.colour,
            label="finished",
        )
        _draw_crosses(axes, view, order)
        slo_s = view.info.slo.ttft_s
        axes.axhline(slo_s, **SLO_LINE, label=f"SLO {plain_time(slo_s)}")

    def finish(axes: Axes) -> None:
        time_scale(axes, "y", np.concatenate([*answered, slos_s]))
        axes.set(xlabel="sent at (s from the start)", ylabel="time to first token")
        axes.set_xlim(left=0)
        legend(axes)

    return sketch.side_by_side(draw, finish)


def latency_facts(values_s: Distribution | None) -> str:
    """A kind of latency in words."""
    if values_s is None:
        return "nothing."
    return f"median {seconds(values_s.p50)}, 99th percentile {seconds(values_s.p99)}."


def _draw_crosses(axes: Axes, view: RunView, order: npt.NDArray[np.int64]) -> None:
    crosses = order[~view.columns.is_finished[order]]
    crosses = crosses[series.thin_indices(len(crosses), MAX_CROSSES)]
    if not len(crosses):
        return
    axes.plot(
        view.columns.sent_s[crosses],
        np.full(len(crosses), CROSS_HEIGHT),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker="x",
        markersize=5,
        markeredgewidth=1.1,
        color=LIGHT["refused"],
        label="refused or failed",
    )


def _has_first_tokens(view: RunView) -> bool:
    return view.summary.ttft_s is not None


def _end_s(views: Sequence[RunView]) -> float:
    return max(view.columns.end_s for view in views)


def _finish_rates(axes: Axes, unit: str) -> None:
    axes.set(xlabel="time (s from the start)", ylabel=unit)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    number_axis(axes.yaxis)
    legend(axes)
