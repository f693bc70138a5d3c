"""The folder of a run's results.

Owns: its name, and that it is there under that name only when all is in it.
Does not know: how a run is played, and what is in its files (`record.py`, `workload.py`).

    RESULTS/WORKLOAD-LABEL-TIME/
        run.json, workload.jsonl, requests.jsonl, samples.jsonl   what happened
        summary.json, report.html                                 what is made of it
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from motet.bench.measures import SUMMARY_FILE, Summary, summarise
from motet.bench.record import WORKLOAD_FILE, Run, write_run
from motet.bench.workload import Workload, encode_workload

REPORT_FILE = "report.html"

_UNFINISHED = ".unfinished"
_MAX_NAME_CHARS = 60


@contextlib.contextmanager
def results_folder(
    root: Path, workload: str, label: str, at: datetime
) -> Iterator[tuple[Path, Path]]:
    """A folder to be written in the block; it gets its own name when the block ends.

    It is made before anything is measured, so that a place that cannot be written to is found out
    then. A block that raises leaves what it has written under a name that ends in `.unfinished`.

    Yields:
        Where to write, and the name that it will have.

    Raises:
        OSError: it cannot be made.
    """
    name = f"{_plain(workload)}-{_plain(label)}-{at:%Y%m%d-%H%M%S}"
    final, unfinished = _claim(root, name)
    try:
        yield unfinished, final
    except BaseException:
        with contextlib.suppress(OSError):  # there is something in it, and that stays
            unfinished.rmdir()
        raise
    unfinished.rename(final)


def write_results(folder: Path, workload: Workload, run: Run) -> Summary:
    """Write everything but the report, what happened before what is made of it."""
    (folder / WORKLOAD_FILE).write_bytes(encode_workload(workload))
    write_run(folder, run)
    summary = summarise(run)
    text = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    (folder / SUMMARY_FILE).write_bytes(text + b"\n")
    return summary


def _claim(root: Path, name: str) -> tuple[Path, Path]:
    """Two names that nobody has, of which the folder has the second at first."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        final = root / (name if number == 1 else f"{name}-{number}")
        unfinished = final.with_name(final.name + _UNFINISHED)
        if not final.exists():
            with contextlib.suppress(FileExistsError):
                unfinished.mkdir()
                return final, unfinished
    raise AssertionError("numbers do not end")


def _plain(text: str) -> str:
    """What is left of a text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", text).strip("._")[:_MAX_NAME_CHARS] or "run"
