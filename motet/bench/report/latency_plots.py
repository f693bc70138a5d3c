"""Plots of how long requests take: distribution curves of TTFT, of gaps, and of cold starts.

Owns: these plots and the words around them.
Does not know: how plots are put into a page.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from motet.bench.columns import Floats, gaps_s
from motet.bench.measures import is_first_of_adapter, is_later_of_adapter
from motet.bench.report import series
from motet.bench.report.load_plots import SLO_LINE, latency_facts
from motet.bench.report.plots import (
    SHORTEST_S,
    Plot,
    Sketch,
    legend,
    plain_time,
    share_axis,
    time_scale,
)
from motet.bench.report.theme import LIGHT
from motet.bench.report.views import RunView


def ttft_curve(views: Sequence[RunView]) -> Plot:
    """The distribution of the time to first token."""
    sketch = Sketch(
        key="ttft-curve",
        title="How many wait how long for the first token",
        reading="At a time on the horizontal axis, the curve's height is the share of finished "
        "requests whose first token had come by then. Further left is better; where it crosses "
        "50 % is the median.",
        views=views,
        has_data=lambda view: view.summary.ttft_s is not None,
        no_data="No first token came.",
        facts=lambda view: latency_facts(view.summary.ttft_s),
    )
    return _curves(sketch, _finished_ttft_s, "time to first token")


def itl_curve(views: Sequence[RunView]) -> Plot:
    """The distribution of the gaps between pieces."""
    values_s = {view.label: gaps_s(view.run.requests) for view in views}

    sketch = Sketch(
        key="itl-curve",
        title="How evenly text flows: gaps between pieces",
        reading="The share of gaps that are no longer than the time below. A steep curve is even "
        "text; a long tail to the right means that answers stand still now and then.",
        views=views,
        has_data=lambda view: view.summary.itl_s is not None,
        no_data="No answer came in more than one piece.",
        facts=lambda view: latency_facts(view.summary.itl_s),
    )
    return _curves(sketch, lambda view: values_s[view.label], "gap between one piece and the next")


def tpot_curve(views: Sequence[RunView]) -> Plot:
    """The distribution of the mean time per output token."""
    sketch = Sketch(
        key="tpot-curve",
        title="How fast text comes: time per output token",
        reading="The share of requests whose tokens after the first took no longer than the time "
        "below, in the mean of each request. Further left is faster text.",
        views=views,
        has_data=lambda view: view.summary.tpot_s is not None,
        no_data="No answer had more than one token.",
        facts=lambda view: latency_facts(view.summary.tpot_s),
    )
    return _curves(
        sketch, lambda view: view.columns.tpot_s[view.columns.is_finished], "time per output token"
    )


def cold_starts(views: Sequence[RunView]) -> Plot:
    """The TTFT of each adapter's first request against that of its later ones."""
    first_s = {
        view.label: view.columns.ttft_s[is_first_of_adapter(view.run.requests)] for view in views
    }
    later_s = {
        view.label: view.columns.ttft_s[is_later_of_adapter(view.run.requests)] for view in views
    }

    def has_data(view: RunView) -> bool:
        return view.summary.first_ttft_s is not None

    sketch = Sketch(
        key="cold-starts",
        title="Cold starts: an adapter's first request against its later ones",
        reading="The first request of an adapter may have to wait until its weights are loaded. "
        "The further its curve (dashed) lies right of the other, the more a cold start costs. "
        "Where a queue grows, though, first requests come before it is long, and wait less.",
        views=views,
        has_data=has_data,
        no_data="No request of an adapter finished.",
        facts=lambda view: (
            f"first requests: {latency_facts(view.summary.first_ttft_s)} "
            f"Later ones: {latency_facts(view.summary.later_ttft_s)}"
        ),
    )

    def draw(axes: Axes, view: RunView) -> None:
        later, first = later_s[view.label], first_s[view.label]
        if later.size:
            _draw_curve(axes, later, color=view.colour, label="later requests")
        _draw_curve(axes, first, color=LIGHT["contrast"], linestyle="--", label="first requests")

    shown = [view.label for view in views if has_data(view)]
    all_s = np.concatenate([np.empty(0), *(first_s[label] for label in shown)])
    all_s = np.concatenate([all_s, *(later_s[label] for label in shown)])

    def finish(axes: Axes) -> None:
        _finish_curves(axes, all_s, "time to first token")

    return sketch.side_by_side(draw, finish)


def attainment_by_threshold(views: Sequence[RunView]) -> Plot:
    """What the SLO attainment would be, were another TTFT promised."""
    sketch = Sketch(
        key="attainment-by-threshold",
        title="What could be promised: requests in time, by the time promised",
        reading="The share of all requests, refused and failed ones among them, whose first token "
        "came within the time below. The dash-dotted line is what was promised in this run; the "
        "curve tells what any other promise would have come to.",
        views=views,
        has_data=lambda view: view.summary.ttft_s is not None,
        no_data="No first token came.",
        facts=lambda view: latency_facts(view.summary.ttft_s),
    )
    slos_s = np.array([view.info.slo.ttft_s for view in views])
    all_s = np.concatenate([slos_s, *(_finished_ttft_s(view) for view in views)])

    def draw(axes: Axes, view: RunView) -> None:
        values_s, total = _finished_ttft_s(view), view.columns.num_requests
        _draw_curve(
            axes, values_s, total, color=view.colour, linestyle=view.dashes, label=view.label
        )

    def finish(axes: Axes) -> None:
        for slo_s in sorted(set(slos_s)):
            axes.axvline(slo_s, **SLO_LINE, label=f"SLO {plain_time(slo_s)}")
        _finish_curves(axes, all_s, "time promised for the first token")
        axes.set_ylabel("of all requests")

    return sketch.overlaid(draw, finish)


def _curves(sketch: Sketch, values_of: Callable[[RunView], Floats], label: str) -> Plot:
    def draw(axes: Axes, view: RunView) -> None:
        _draw_curve(
            axes, values_of(view), color=view.colour, linestyle=view.dashes, label=view.label
        )

    def finish(axes: Axes) -> None:
        shown = [view for view in sketch.views if sketch.has_data(view)]
        _finish_curves(axes, np.concatenate([values_of(view) for view in shown]), label)

    return sketch.overlaid(draw, finish)


def _finished_ttft_s(view: RunView) -> Floats:
    return view.columns.ttft_s[view.columns.is_finished]


def _draw_curve(axes: Axes, values: Floats, total: int | None = None, **style: Any) -> None:
    times_s, shares = series.distribution_curve(np.maximum(values, SHORTEST_S), total)
    start_s, end_s = times_s[:1] / 1e6, times_s[-1:] * 1e6  # beyond what the scale shows
    axes.step(
        np.concatenate([start_s, times_s, end_s]),
        np.concatenate([[0.0], shares, shares[-1:]]),
        where="post",
        **style,
    )


def _finish_curves(axes: Axes, all_s: Floats, label: str) -> None:
    time_scale(axes, "x", all_s)
    axes.set(xlabel=f"{label} (logarithmic)", ylabel="share", ylim=(0, 1.02))
    share_axis(axes.yaxis)
    legend(axes)
