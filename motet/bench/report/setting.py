"""The setting of a run as lines of a table.

Owns: which lines there are, and how nested values are laid out.
Does not know: HTML.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from motet.bench.record import RunInfo, Slo
from motet.bench.report.text import NOTHING, clean, seconds

MAX_CHARS = 300
SHOWN_ELSEWHERE = ("command", "warnings", "interrupted")


def command_of(info: RunInfo) -> str | None:
    """The command that ran it, if the run tells."""
    command = info.settings.get("command")
    return clean(command, 2000) if isinstance(command, str) else None


def slo_words(slo: Slo) -> str:
    """What was promised."""
    first = f"first token within {seconds(slo.ttft_s)}"
    return first if slo.itl_s is None else f"{first}, then {seconds(slo.itl_s)} a token"


def setting_rows(infos: Sequence[RunInfo]) -> list[tuple[str, list[str]]]:
    """A name, and its value in each run."""
    return _side_by_side([dict(_setting(info)) for info in infos])


def environment_rows(infos: Sequence[RunInfo]) -> list[tuple[str, list[str]]]:
    """The same for the machine and the versions."""
    return _side_by_side([dict(_flat(info.environment)) for info in infos])


def _setting(info: RunInfo) -> Iterator[tuple[str, str]]:
    yield "server", clean(info.target, MAX_CHARS)
    yield "workload", clean(info.workload, MAX_CHARS)
    yield "seed", str(info.seed)
    yield (
        "sending",
        "open loop: at set times, whatever becomes of the others"
        if info.is_open_loop
        else "closed loop: each client waits for its answer before it sends again",
    )
    yield "SLO", slo_words(info.slo)
    yield "started", clean(info.started_at, MAX_CHARS)
    yield "took", seconds(info.wall_s)
    rest = {name: value for name, value in info.settings.items() if name not in SHOWN_ELSEWHERE}
    yield from _flat(rest)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested names joined by dots."""
    for name, value in values.items():
        path = clean(f"{prefix}{name}", MAX_CHARS)
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield path, clean(shown, MAX_CHARS)


def _side_by_side(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, NOTHING) for column in columns]) for name in names]
