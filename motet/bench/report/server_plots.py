"""Plots of what the server told of itself: its queue, its memory, its adapters.

Owns: these plots and the words around them.
Does not know: how samples were got.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from motet.bench.columns import Floats
from motet.bench.measures import told
from motet.bench.record import Sample
from motet.bench.report.plots import Plot, Sketch, legend, number_axis, share_axis
from motet.bench.report.series import thin_indices
from motet.bench.report.text import number, percent
from motet.bench.report.theme import LIGHT
from motet.bench.report.views import RunView

MAX_SAMPLES = 400

# Of the memory pool: the field of a sample, the colour, what a reader calls it; lowest first.
SHARES = (
    ("kv_share", "kv", "KV of running requests"),
    ("adapter_share", "adapters", "adapters in use"),
    ("cached_share", "cached", "kept for later"),
    ("free_share", "free", "free"),
)
NOT_TOLD = "The server did not tell."


def queue_over_time(views: Sequence[RunView]) -> Plot:
    """Requests running and waiting in the server."""
    sketch = Sketch(
        key="queue-over-time",
        title="Requests running and waiting in the server",
        reading="Running requests get their tokens; waiting ones have nothing yet. A waiting line "
        "that keeps climbing is overload: then what is done about it is up to the policy.",
        views=views,
        has_data=lambda view: _tells(view, "num_running", "num_waiting"),
        no_data=NOT_TOLD,
        facts=lambda view: (
            f"{number(view.summary.mean_running)} running in the mean, "
            f"{number(view.summary.peak_waiting)} waiting at most."
        ),
    )

    def draw(axes: Axes, view: RunView) -> None:
        for field, colour, dashes, label in (
            ("num_running", view.colour, "-", "running"),
            ("num_waiting", LIGHT["refused"], "--", "waiting"),
        ):
            times_s, values = _series(view.run.samples, field)
            axes.plot(times_s, values, color=colour, linestyle=dashes, label=label)

    return sketch.side_by_side(draw, lambda axes: _finish(axes, "requests"))


def residency_over_time(views: Sequence[RunView]) -> Plot:
    """Adapters on the device."""
    sketch = Sketch(
        key="residency-over-time",
        title="Adapters resident on the device",
        reading="How many adapters can serve at once without a load. It climbs while there is "
        "memory to spare, and falls when requests need that memory.",
        views=views,
        has_data=lambda view: _tells(view, "num_resident_adapters"),
        no_data=NOT_TOLD,
        facts=lambda view: f"{number(view.summary.mean_resident_adapters)} in the mean.",
    )

    def draw(axes: Axes, view: RunView) -> None:
        times_s, values = _series(view.run.samples, "num_resident_adapters")
        axes.plot(times_s, values, color=view.colour, linestyle=view.dashes, label=view.label)

    return sketch.overlaid(draw, lambda axes: _finish(axes, "adapters"))


def memory_over_time(views: Sequence[RunView]) -> Plot:
    """What the memory pool is used for."""
    fields = [field for field, _, _ in SHARES]
    sketch = Sketch(
        key="memory-over-time",
        title="What the device's memory is used for",
        reading="The height of each colour is its share of the memory pool. What is kept for later "
        "(idle adapters, cached prefixes) makes room as soon as it is needed.",
        views=views,
        has_data=lambda view: _tells(view, *fields),
        no_data=NOT_TOLD,
        facts=_memory_facts,
    )

    def draw(axes: Axes, view: RunView) -> None:
        samples = [each for each in view.run.samples if each.kv_share is not None]
        samples = [samples[position] for position in thin_indices(len(samples), MAX_SAMPLES)]
        axes.stackplot(
            [each.at_s for each in samples],
            [[getattr(each, field) or 0.0 for each in samples] for field in fields],
            colors=[LIGHT[colour] for _, colour, _ in SHARES],
            labels=[label for _, _, label in SHARES],
            edgecolor=LIGHT["card"],
            linewidth=0.5,
        )

    def finish(axes: Axes) -> None:
        _finish(axes, "of the memory pool")
        axes.set_ylim(0, 1)
        axes.grid(visible=False)
        share_axis(axes.yaxis)

    return sketch.side_by_side(draw, finish)


def _tells(view: RunView, *fields: str) -> bool:
    return any(told(view.run.samples, field) for field in fields)


def _series(samples: Sequence[Sample], field: str) -> tuple[Floats, Floats]:
    pairs = [(each.at_s, getattr(each, field)) for each in samples]
    known = np.array([pair for pair in pairs if pair[1] is not None], dtype=np.float64)
    known = known.reshape(-1, 2)[thin_indices(len(known), MAX_SAMPLES)]
    return known[:, 0], known[:, 1]


def _memory_facts(view: RunView) -> str:
    means = ((label, told(view.run.samples, field)) for field, _, label in SHARES)
    return ", ".join(f"{label} {percent(float(np.mean(all_)))}" for label, all_ in means if all_)


def _finish(axes: Axes, unit: str) -> None:
    axes.set(xlabel="time (s from the start)", ylabel=unit)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    number_axis(axes.yaxis)
    legend(axes)
