"""The page: which parts it has, in which order, and their filling into the template.

Owns: the order of the plots, and the only place where text becomes HTML. The template escapes
whatever it is given; SVG and the style sheet, which are our own, alone are taken as they are.
Does not know: how plots are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from motet.bench.groups import GroupRow
from motet.bench.report import latency_plots, load_plots, server_plots, service_plots, theme
from motet.bench.report.comparison import rows_of
from motet.bench.report.group_rows import adapter_name, rows_by_group, tenant_name
from motet.bench.report.notes import differences, warnings_of
from motet.bench.report.plots import Plot
from motet.bench.report.setting import (
    command_of,
    environment_rows,
    setting_rows,
    slo_words,
)
from motet.bench.report.text import clean, number, percent, seconds
from motet.bench.report.views import RunView

MAX_NAME_CHARS = 80


@dataclass(frozen=True)
class Section:
    """Plots under one heading."""

    title: str
    plots: Sequence[Plot]


SECTIONS: Sequence[tuple[str, Sequence[Callable[[Sequence[RunView]], Plot]]]] = (
    ("Load and throughput", (load_plots.finished_over_time, load_plots.tokens_over_time)),
    ("Waiting for the first token", (load_plots.wait_by_arrival, latency_plots.ttft_curve)),
    (
        "Promises kept",
        (service_plots.attainment_over_time, latency_plots.attainment_by_threshold),
    ),
    ("The flow of text", (latency_plots.tpot_curve, latency_plots.itl_curve)),
    (
        "Adapters and tenants",
        (
            service_plots.fairness_by_adapter,
            latency_plots.cold_starts,
            service_plots.ttft_by_tenant,
        ),
    ),
    (
        "Inside the server",
        (
            server_plots.queue_over_time,
            server_plots.residency_over_time,
            server_plots.memory_over_time,
        ),
    ),
)


def page(views: Sequence[RunView]) -> str:
    """The report of these runs, as a whole document."""
    environment = _environment()
    rows = rows_of(views)
    return environment.get_template("report.html.jinja").render(
        views=views,
        title=" and ".join(view.label for view in views),
        style=Markup(_style(environment)),
        warnings=[(view, warnings_of(view)) for view in views],
        differences=differences(views),
        key_rows=[row for row in rows if row.measure.is_key],
        rows=rows,
        sections=[Section(title, [draw(views) for draw in draws]) for title, draws in SECTIONS],
        commands=[(view, command_of(view.info)) for view in views],
        settings=setting_rows([view.info for view in views]),
        environment=environment_rows([view.info for view in views]),
        adapter_rows=rows_by_group(views, lambda summary: summary.by_adapter),
        tenant_rows=rows_by_group(views, lambda summary: summary.by_tenant),
        clean=clean,
        slo_words=slo_words,
        markup=Markup,
        number=number,
        percent=percent,
        seconds=seconds,
        adapter_name=_cleaned(adapter_name),
        tenant_name=_cleaned(tenant_name),
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("motet.bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _style(environment: Environment) -> str:
    light, dark = (theme.custom_properties(colours) for colours in (theme.LIGHT, theme.DARK))
    source, _, _ = PackageLoader("motet.bench.report").get_source(environment, "report.css")
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
        f"{source}"
    )


def _cleaned(name_of: Callable[[GroupRow], str]) -> Callable[[GroupRow], str]:
    return lambda row: clean(name_of(row), MAX_NAME_CHARS)
