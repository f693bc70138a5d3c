"""What has come of a run so far.

Owns: the records of the requests that have ended, and the counts of all.
Does not know: how they are got (`client.py`), shown (`progress.py`) and kept (`results.py`).
"""

from collections import deque
from statistics import median

from motet.bench.record import RequestRecord

_NUM_LATE_TTFTS = 200


class Journal:
    """Records and counts of one run.

    Attributes:
        records: of the requests that have ended, in that order.
        num_sent: requests that were sent.
        num_refused: of the ended ones, those that the server had no room or no turn for.
        num_failed: those that went wrong in any other way.
        num_pieces: of answers; about as many as tokens.
    """

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.num_sent = 0
        self.num_refused = 0
        self.num_failed = 0
        self.num_pieces = 0
        self._late_ttfts_s: deque[float] = deque(maxlen=_NUM_LATE_TTFTS)

    @property
    def num_running(self) -> int:
        """Requests that were sent and have not ended."""
        return self.num_sent - len(self.records)

    @property
    def num_finished(self) -> int:
        """Requests whose whole answer came."""
        return len(self.records) - self.num_refused - self.num_failed

    @property
    def late_ttft_s(self) -> float | None:
        """The median of the latest times to first token; None before the first."""
        late = list(self._late_ttfts_s)  # a copy: this may be read from another thread
        return median(late) if late else None

    def note_sent(self) -> None:
        """A request goes out."""
        self.num_sent += 1

    def note_pieces(self, count: int) -> None:
        """So many more pieces of answers came."""
        self.num_pieces += count

    def note_ttft(self, ttft_s: float) -> None:
        """An answer began."""
        self._late_ttfts_s.append(ttft_s)

    def note_ended(self, record: RequestRecord) -> None:
        """A request has ended, in whatever way."""
        self.records.append(record)
        if record.is_refused:
            self.num_refused += 1
        elif not record.is_finished:
            self.num_failed += 1
