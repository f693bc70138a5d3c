"""Ending an answer at a stop string, without ever having shown a part of it.

Owns: the search for stop strings in text that arrives in pieces.
Does not know: tokens, nor what is done when one is found.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFinder:
    """Passes text on up to the first stop string, which it withholds or ends with.

    Text that may be the beginning of a stop string is held back until it is decided. The result
    is the same however the text was cut into pieces: the text before the stop string that ends
    first, and of several that end together, before the one that begins first.

    Args:
        includes_stop: the result ends with the stop string, rather than before it.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown now. Nothing follows once `found` is set."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        # No match ends in the text that was held: it would have been found then.
        match = self._first_match(text, len(self._held))
        if match is not None:
            self.found = True
            self._held = ""
            begin, end = match
            return text[: end if self._includes_stop else begin]
        num_held = self._num_undecided(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """What is still held, once no more text comes."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str, num_searched: int) -> tuple[int, int] | None:
        """Where the stop string that ends first in `text` begins and ends."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            begin = text.find(stop, max(0, num_searched - len(stop) + 1))
            if begin >= 0:
                match = (begin + len(stop), begin)
                best = match if best is None else min(best, match)
        return None if best is None else (best[1], best[0])

    def _num_undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
