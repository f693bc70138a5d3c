"""What a reader must know before trusting a run.

Owns: which warnings a run calls for, and what makes two runs hard to compare.
Does not know: how they are shown.
"""

from collections.abc import Iterator, Sequence

from motet.bench.report.text import clean, number
from motet.bench.report.views import RunView

MAX_CHARS = 300


def warnings_of(view: RunView) -> list[str]:
    """Sentences, the worst first; those of the client (`settings["warnings"]`) at the end."""
    return list(_warnings(view))


def differences(views: Sequence[RunView]) -> list[str]:
    """In what the runs were asked for different things; nothing for one run."""
    first, last = views[0].info, views[-1].info
    pairs = {
        "workload": (first.workload, last.workload),
        "its parameters": (first.settings.get("parameters"), last.settings.get("parameters")),
        "seed": (first.seed, last.seed),
        "how requests were sent": (first.is_open_loop, last.is_open_loop),
        "SLO": (first.slo, last.slo),
    }
    return [name for name, (one, other) in pairs.items() if one != other]


def _warnings(view: RunView) -> Iterator[str]:
    summary, settings = view.summary, view.info.settings
    if settings.get("interrupted"):
        yield "The run was interrupted: it has a part of its workload only."
    if not summary.num_asked:
        yield "No request was sent."
    elif not summary.num_finished:
        yield "No request finished."
    if summary.num_failed:
        errors = "; ".join(
            f"{number(count)} \N{MULTIPLICATION SIGN} {clean(error, MAX_CHARS)}"
            for error, count in summary.errors.items()
        )
        are = "request" if summary.num_failed == 1 else "requests"
        yield f"{number(summary.num_failed)} {are} failed: {errors}"
    told = settings.get("warnings")
    if isinstance(told, list):
        yield from (clean(str(warning), MAX_CHARS) for warning in told)
