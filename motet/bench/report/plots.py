"""What a plot is, and the two ways in which runs share one.

Owns: figures and axes in the report's style, scales of times, and how two runs are laid over each
other or put side by side.
Does not know: what is plotted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from motet.bench.columns import Floats
from motet.bench.report.svg import svg_of
from motet.bench.report.text import number
from motet.bench.report.theme import LIGHT
from motet.bench.report.views import RunView

# In CSS pixels: an inch of matplotlib's has 72 of its units.
WIDTH, HEIGHT = 480, 300
SHORTEST_S = 1e-4  # a logarithmic scale has no 0
MAX_RATIO_OF_STEPS = 200  # a longer scale is labelled at powers of ten alone
LEGEND_CHARS = 60  # as many as fit beside each other

_STYLE: dict[Any, Any] = {
    "font.size": 12,
    "text.color": LIGHT["text"],
    "text.parse_math": False,  # a name may have dollar signs in it
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.labelcolor": LIGHT["text"],
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}

Draw = Callable[[Axes, RunView], None]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture.

    Attributes:
        caption: which run it is of; None if of all.
        svg: an element of HTML.
    """

    caption: str | None
    svg: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What a reader looks at, with the words around it.

    Attributes:
        key: made of letters and hyphens, unlike that of any other plot.
        title: what one sees.
        reading: how to read it.
        panels: none if there is nothing to draw.
        missing: why some run, or all, is not to be seen; None if all are.
    """

    key: str
    title: str
    reading: str
    panels: Sequence[Panel]
    missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A plot before it is drawn.

    Attributes:
        views: all runs of the report.
        has_data: whether a run has something to draw.
        no_data: why one may have nothing: a sentence.
        facts: a run's figures in words, for who cannot see the plot.
    """

    key: str
    title: str
    reading: str
    views: Sequence[RunView]
    has_data: Callable[[RunView], bool]
    no_data: str
    facts: Callable[[RunView], str]

    def overlaid(self, draw: Draw, finish: Callable[[Axes], None]) -> Plot:
        """All runs in one picture. `finish` sets axes and legend when all are drawn."""
        shown = [view for view in self.views if self.has_data(view)]
        if not shown:
            return self._plot([])
        with rc_context(_STYLE):
            figure, axes = _new_figure()
            for view in shown:
                draw(axes, view)
            finish(axes)
            panel = Panel(caption=None, svg=self._svg(figure, self.key, shown))
        return self._plot([panel])

    def side_by_side(self, draw: Draw, finish: Callable[[Axes], None]) -> Plot:
        """A picture for each run, all on the same scales."""
        shown = [view for view in self.views if self.has_data(view)]
        with rc_context(_STYLE):
            pictures = [(view, *_new_figure()) for view in shown]
            for view, _, axes in pictures:
                draw(axes, view)
                finish(axes)
            _share_scales([axes for _, _, axes in pictures])
            panels = [
                Panel(
                    caption=view.label if len(self.views) > 1 else None,
                    svg=self._svg(figure, f"{self.key}-{position}", [view]),
                )
                for position, (view, figure, _) in enumerate(pictures)
            ]
        return self._plot(panels)

    def _svg(self, figure: Figure, key: str, shown: Sequence[RunView]) -> str:
        description = " ".join(f"{view.label}: {self.facts(view)}" for view in shown)
        return svg_of(figure, key, self.title, description)

    def _plot(self, panels: Sequence[Panel]) -> Plot:
        without = [view for view in self.views if not self.has_data(view)]
        names = f"{' and '.join(view.label for view in without)}: " if len(self.views) > 1 else ""
        return Plot(
            key=self.key,
            title=self.title,
            reading=self.reading,
            panels=panels,
            missing=f"{names}{self.no_data}" if without else None,
        )


def time_scale(axes: Axes, name: Literal["x", "y"], values_s: Floats) -> None:
    """A logarithmic scale over all of these times (those that are not NaN), with plain labels."""
    low, high = log_limits(float(np.nanmin(values_s)), float(np.nanmax(values_s)))
    steps = (1,) if high / low > MAX_RATIO_OF_STEPS else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([step * 10.0**power for power in powers for step in steps]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_time(value)))


def log_limits(low: float, high: float) -> tuple[float, float]:
    """The nearest of 1, 2 and 5 times a power of ten below and above."""
    low, high = max(low, SHORTEST_S), max(high, SHORTEST_S)
    if low == high:
        low, high = low / 2, high * 2
    return _step_below(low), 1 / _step_below(1 / high)


def plain_time(value_s: float) -> str:
    """A round time: 50 ms, 2 s."""
    return f"{value_s:g} s" if value_s > 0.9999 else f"{value_s * 1000:g} ms"


def legend(axes: Axes) -> None:
    """A legend above the axes, where it hides nothing; none for a single line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < 2:
        return
    num_columns = max(1, LEGEND_CHARS // (max(map(len, labels)) + 5))
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=num_columns,
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.4,
    )


def share_axis(axis: Axis) -> None:
    """Shares from 0 to 1, as percentages."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def number_axis(axis: Axis) -> None:
    """Plain numbers with commas, instead of powers of ten at the end of the axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _step_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-6))


def _new_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    return figure, figure.add_subplot()


def _share_scales(all_axes: Sequence[Axes]) -> None:
    for get, put in ((Axes.get_xlim, Axes.set_xlim), (Axes.get_ylim, Axes.set_ylim)):
        limits = [get(axes) for axes in all_axes]
        for axes in all_axes:
            put(axes, min(low for low, _ in limits), max(high for _, high in limits))
