"""Plots of who is served how well: in time over time, by adapter, by tenant.

Owns: these plots and the words around them.
Does not know: how plots are put into a page.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from motet.bench.columns import Floats
from motet.bench.groups import GroupRow, groups_of
from motet.bench.report import series
from motet.bench.report.group_rows import tenant_name
from motet.bench.report.load_plots import SLO_LINE
from motet.bench.report.plots import (
    SHORTEST_S,
    Plot,
    Sketch,
    legend,
    plain_time,
    share_axis,
    time_scale,
)
from motet.bench.report.text import clean, index, percent, seconds
from motet.bench.report.theme import LIGHT
from motet.bench.report.views import RunView

MAX_TICK_CHARS = 20


def attainment_over_time(views: Sequence[RunView]) -> Plot:
    """The share of requests in time, by when they were sent."""
    edges_s = series.bin_edges(max(_last_sent_s(view) for view in views))
    sketch = Sketch(
        key="attainment-over-time",
        title="Requests within the SLO, over time",
        reading="Of the requests that were sent in each stretch of time, the share that was "
        "answered within the SLO; refused and failed ones count as not.",
        views=views,
        has_data=lambda view: view.columns.num_requests > 0,
        no_data="No request was sent.",
        facts=lambda view: f"{percent(view.summary.attainment)} within the SLO.",
    )

    def draw(axes: Axes, view: RunView) -> None:
        columns = view.columns
        axes.stairs(
            series.shares(columns.sent_s, columns.is_in_time, edges_s),
            edges_s,
            baseline=None,
            color=view.colour,
            linestyle=view.dashes,
            linewidth=1.8,
            label=view.label,
        )

    def finish(axes: Axes) -> None:
        axes.set(xlabel="sent at (s from the start)", ylabel="within the SLO", ylim=(0, 1.03))
        axes.set_xlim(left=0)
        share_axis(axes.yaxis)
        legend(axes)

    return sketch.overlaid(draw, finish)


def fairness_by_adapter(views: Sequence[RunView]) -> Plot:
    """The Lorenz curve of what adapters got of their fair shares."""
    got = {view.label: _fair_shares_got(view) for view in views}
    sketch = Sketch(
        key="fairness-by-adapter",
        title="How evenly adapters are served",
        reading="Adapters from the worst to the best served, and how much of the service within "
        "the SLO they got together, each measured against its fair share. On the straight line all "
        "got their share; a curve that stays at 0 for long means that many adapters got nothing in "
        "time. Where most adapters have one or two requests, misses alone bend the curve.",
        views=views,
        has_data=lambda view: view.summary.adapter_fairness is not None,
        no_data="There were fewer than two adapters, or nothing was in time.",
        facts=lambda view: f"Jain's index {index(view.summary.adapter_fairness)}.",
    )

    def draw(axes: Axes, view: RunView) -> None:
        label = f"{view.label}: Jain's index {index(view.summary.adapter_fairness)}"
        adapters, service = series.lorenz_curve(got[view.label])
        axes.plot(adapters, service, color=view.colour, linestyle=view.dashes, label=label)

    def finish(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], **SLO_LINE, label="all alike")
        axes.set(xlabel="adapters, worst served first", ylabel="of all service in time")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        share_axis(axes.xaxis)
        share_axis(axes.yaxis)
        legend(axes)

    return sketch.overlaid(draw, finish)


def ttft_by_tenant(views: Sequence[RunView]) -> Plot:
    """The TTFT of each tenant's requests: median, 90th and 99th percentile."""
    sketch = Sketch(
        key="ttft-by-tenant",
        title="Wait for the first token, by tenant",
        reading="For each tenant a line from the median (dot) over the 90th percentile (bar) to "
        "the 99th (end). Lines of like length at like places: all tenants wait alike. The most "
        "active tenant is at the top; finished requests alone.",
        views=views,
        has_data=lambda view: bool(_tenants(view)),
        no_data="Requests had no tenants, or none of theirs finished.",
        facts=_tenant_facts,
    )
    shown_s = [_three(row) for view in views for row in _tenants(view)]

    def draw(axes: Axes, view: RunView) -> None:
        rows = _tenants(view)
        for place, row in enumerate(rows):
            p50, p90, p99 = _three(row)
            axes.plot([p50, p99], [place, place], color=view.colour, solid_capstyle="butt")
            axes.plot([p50], [place], marker="o", markersize=6, color=view.colour)
            axes.plot([p90], [place], marker="|", markersize=11, color=view.colour)
        names = [clean(tenant_name(row), MAX_TICK_CHARS) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.axvline(view.info.slo.ttft_s, **SLO_LINE)
        axes.text(
            view.info.slo.ttft_s,
            1.0,
            f"SLO {plain_time(view.info.slo.ttft_s)}",
            transform=axes.get_xaxis_transform(),
            color=LIGHT["muted"],
            ha="center",
            va="bottom",
            fontsize=10.5,
        )

    def finish(axes: Axes) -> None:
        slos_s = [view.info.slo.ttft_s for view in views]
        time_scale(axes, "x", np.concatenate([*shown_s, slos_s]))
        axes.set(xlabel="time to first token (logarithmic)")
        num_rows = max(len(_tenants(view)) for view in views)
        axes.set_ylim(num_rows - 0.5, -0.5)
        axes.grid(visible=False, axis="y")

    return sketch.side_by_side(draw, finish)


def _fair_shares_got(view: RunView) -> Floats:
    groups = groups_of([each.adapter for each in view.run.requests])
    return groups.fair_shares_got(view.columns)


def _tenants(view: RunView) -> list[GroupRow]:
    return [row for row in view.summary.by_tenant if row.ttft_s is not None]


def _three(row: GroupRow) -> tuple[float, float, float]:
    assert row.ttft_s is not None
    p50, p90, p99 = (
        max(each, SHORTEST_S) for each in (row.ttft_s.p50, row.ttft_s.p90, row.ttft_s.p99)
    )
    return p50, p90, p99


def _tenant_facts(view: RunView) -> str:
    return " ".join(
        f"{clean(tenant_name(row), MAX_TICK_CHARS)}: median {seconds(_three(row)[0])}, "
        f"99th percentile {seconds(_three(row)[2])}."
        for row in _tenants(view)
    )


def _last_sent_s(view: RunView) -> float:
    return float(view.columns.sent_s.max(initial=0.0))
