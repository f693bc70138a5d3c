"""What a run shows of itself while it goes on."""

import io

import pytest
from rich.console import Console

from motet.bench.journal import Journal
from motet.bench.progress import shown_progress
from motet.bench.record import RequestRecord


def record(index: int, status: int = 200, error: str | None = None) -> RequestRecord:
    return RequestRecord(
        index=index, adapter=None, model="m", sent_s=0, ended_s=1, status=status, error=error
    )


@pytest.mark.parametrize("is_terminal", [False, True])
def test_all_counts_are_shown_at_the_end(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=200)
    journal = Journal()
    with shown_progress(console, journal, 7):
        for _ in range(5):
            journal.note_sent()
        journal.note_pieces(12)
        journal.note_ttft(0.25)
        journal.note_ended(record(0))
        journal.note_ended(record(1, 503, "overloaded"))
        journal.note_ended(record(2, 200, "timeout"))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for part in ("3/7", "5 sent", "2 running", "1 refused", "1 failed", "ttft p50 250 ms"):
        assert part in shown
    assert journal.num_finished == 1


def test_an_error_in_a_run_is_not_hidden() -> None:
    with (
        pytest.raises(RuntimeError),
        shown_progress(Console(file=io.StringIO()), Journal(), 1),
    ):
        raise RuntimeError
