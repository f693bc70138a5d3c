"""How the load changes over time, as a factor on it.

Owns: the shapes, and the arithmetic of their time.
Does not know: what is multiplied (users of a closed loop, the arrival rate of an open one).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the factor goes evenly from one value to another, both over 0."""

    length_s: float
    first: float
    last: float

    @property
    def work_s(self) -> float:
        """How many seconds at factor one it is worth: the area below the factor."""
        return self.length_s * (self.first + self.last) / 2

    def factor_at(self, at_s: float) -> float:
        """The factor at a time since the segment's start."""
        return self.first + (self.last - self.first) * at_s / self.length_s

    def time_of(self, work_s: float) -> float:
        """When so much work is done: the root of first·t + (last - first)/(2·length)·t² = work.

        In the form that has no division by the slope, which may be zero.
        """
        slope = (self.last - self.first) / self.length_s
        return 2 * work_s / (self.first + math.sqrt(self.first**2 + 2 * slope * work_s))


@dataclass(frozen=True)
class Shape:
    """Segments one after another; after the last of them the load test is over."""

    segments: tuple[Segment, ...]

    def factor_at(self, at_s: float) -> float | None:
        """The factor at a time since the start; None when it is over."""
        for segment in self.segments:
            if at_s < segment.length_s:
                return segment.factor_at(at_s)
            at_s -= segment.length_s
        return None

    def time_of(self, work_s: float) -> float | None:
        """When what would come after `work_s` at factor one comes; None if the shape ends before.

        Arrivals at these times have the workload's rate times the factor of the moment.
        """
        start_s = 0.0
        for segment in self.segments:
            if work_s < segment.work_s:
                return start_s + segment.time_of(work_s)
            work_s -= segment.work_s
            start_s += segment.length_s
        return None


SHAPE_NAMES = ("none", "ramp", "spike", "soak")


def make_shape(name: str, length_s: float, peak: float) -> Shape | None:
    """A shape by its name; None for "none", which is the plain load without an end.

    Args:
        length_s: of the whole shape.
        peak: the highest factor. A ramp ends with it, a spike has it for its middle fifth, a soak
            has none.

    Raises:
        ValueError: there is no such shape, or a number is not positive.
    """
    if not (0 < length_s < math.inf and 0 < peak < math.inf):
        raise ValueError(
            f"A shape of {length_s} s with a peak of {peak}: expected positive numbers."
        )
    match name:
        case "none":
            return None
        case "ramp":
            segments = [Segment(length_s, 1.0, peak)]
        case "spike":
            calm = Segment(0.4 * length_s, 1.0, 1.0)
            segments = [calm, Segment(0.2 * length_s, peak, peak), calm]
        case "soak":
            segments = [Segment(length_s, 1.0, 1.0)]
        case _:
            raise ValueError(f"There is no shape {name!r}: expected {', '.join(SHAPE_NAMES)}.")
    return Shape(tuple(segments))
