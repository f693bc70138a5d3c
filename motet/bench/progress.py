"""How a run goes, in a terminal: a bar, or now and then a line where there is no terminal.

Owns: what is shown, and how often.
Does not know: how it comes about (`journal.py`).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from motet.bench.journal import Journal

_BAR_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 10.0
_RATE_WINDOW_S = 5.0


@contextlib.contextmanager
def shown_progress(console: Console, journal: Journal, num_requests: int) -> Iterator[None]:
    """Show what the journal says, from a thread, until the block ends."""
    view = _Bar(console, num_requests) if console.is_terminal else _Lines(console, num_requests)
    has_ended = threading.Event()

    def show() -> None:
        rate = _Rate()
        while not has_ended.wait(view.interval_s):
            view.show(journal, rate.update(journal.num_pieces))
        view.show(journal, rate.update(journal.num_pieces))

    thread = threading.Thread(target=show, name="progress", daemon=True)
    with view:
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()


class _Bar(contextlib.AbstractContextManager["_Bar"]):
    interval_s = _BAR_INTERVAL_S

    def __init__(self, console: Console, num_requests: int) -> None:
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("starting", total=num_requests)

    def show(self, journal: Journal, pieces_per_s: float) -> None:
        text = _text(journal, pieces_per_s)
        self._progress.update(self._task, completed=len(journal.records), description=text)
        self._progress.refresh()

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines(contextlib.AbstractContextManager["_Lines"]):
    interval_s = _LINE_INTERVAL_S

    def __init__(self, console: Console, num_requests: int) -> None:
        self._console = console
        self._num_requests = num_requests

    def show(self, journal: Journal, pieces_per_s: float) -> None:
        text = f"{len(journal.records)}/{self._num_requests} {_text(journal, pieces_per_s)}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        pass


class _Rate:
    """Pieces a second over the last few seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def update(self, num_pieces: int) -> float:
        now_s = time.monotonic()
        while len(self._counts) > 1 and self._counts[1][0] < now_s - _RATE_WINDOW_S:
            self._counts.popleft()
        before_s, before = self._counts[0]
        self._counts.append((now_s, num_pieces))
        return (num_pieces - before) / max(now_s - before_s, 1e-3)


def _text(journal: Journal, pieces_per_s: float) -> str:
    ttft_s = journal.late_ttft_s
    parts = [
        f"{journal.num_sent} sent",
        f"{journal.num_running} running",
        f"{journal.num_refused} refused",
        f"{journal.num_failed} failed",
        f"{pieces_per_s:.0f} tokens/s",
        "" if ttft_s is None else f"ttft p50 {ttft_s * 1000:.0f} ms",
    ]
    return ", ".join(filter(None, parts))
