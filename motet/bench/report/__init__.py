"""A run, or two side by side, as one page that a person can read without knowing the code.

Owns: nothing but the way in. The page needs matplotlib, which is loaded only here.
Does not know: how runs were got.

    views.py              a run with its measures, name and colour
    comparison.py         the table of measures; group_rows.py: those of adapters and tenants
    *_plots.py, plots.py  the plots; series.py: the points in them; svg.py: their SVG
    notes.py, setting.py  warnings; the setting
    page.py, templates/   all of it as HTML; theme.py: the colours
"""

from collections.abc import Sequence
from pathlib import Path

from motet.bench.record import Run
from motet.bench.report.views import views_of


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Write one self-contained HTML file about one run, or about two side by side.

    The page loads nothing, has no scripts, and says so in its content security policy. Equal runs
    give equal bytes, with the same version of matplotlib.

    Raises:
        ValueError: other than one or two runs, or one whose SLO is not above 0 s.
        ModuleNotFoundError: matplotlib is not installed; the message says how to get it.
        OSError: the file cannot be written.
    """
    views = views_of(runs)
    try:
        from motet.bench.report.page import page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "A report is drawn by matplotlib, which is not installed. "
            "Install it with: pip install 'motet[bench]'",
            name=error.name,
        ) from error
    path.write_text(page(views), encoding="utf-8")
