"""Contiguous ranges of a fixed index space, first fit.

Owns: which entries of the row-offset table are taken.
Does not know: what the entries hold.
"""


class RangeAllocator:
    """Hands out ranges of `0 .. capacity - 1` and joins neighbours when they come back."""

    def __init__(self, capacity: int) -> None:
        self._gaps = [(0, capacity)]  # (start, length), in order, never adjacent
        self.capacity = capacity

    @property
    def num_free(self) -> int:
        return sum(length for _, length in self._gaps)

    def allocate(self, length: int) -> int | None:
        """The start of a free range of this length, now taken; None where none is long enough."""
        if length == 0:
            return 0
        for index, (start, gap) in enumerate(self._gaps):
            if gap >= length:
                rest = (start + length, gap - length)
                self._gaps[index : index + 1] = [rest] if rest[1] else []
                return start
        return None

    def free(self, start: int, length: int) -> None:
        """Give a range back. It must have been handed out as it is."""
        if length == 0:
            return
        gaps = sorted([*self._gaps, (start, length)])
        joined = [gaps[0]]
        for begin, size in gaps[1:]:
            last_begin, last_size = joined[-1]
            assert begin >= last_begin + last_size, "a range was freed twice"
            if begin == last_begin + last_size:
                joined[-1] = (last_begin, last_size + size)
            else:
                joined.append((begin, size))
        self._gaps = joined
