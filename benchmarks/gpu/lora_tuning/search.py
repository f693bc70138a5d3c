"""The search for the fastest sizes of one kernel and class.

Owns: which sizes are tried, and which are kept.
Does not know: kernels, GPUs, clocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes

Sizes = TypeVar("Sizes", ShrinkSizes, ExpandSizes)

SHRINK_CHOICES: Mapping[str, Sequence[int]] = {
    "block_t": (16, 32, 64, 128),
    "block_r": (16, 32, 64, 128),
    "block_k": (64, 128, 256),
    "wanted_programs": (132, 264, 528, 1056),
    "num_warps": (2, 4, 8),
    "num_stages": (2, 3, 4, 5),
}
EXPAND_CHOICES: Mapping[str, Sequence[int]] = {
    "block_t": (4, 8, 16, 32, 64, 128),
    "block_r": (16, 32, 64),
    "block_n": (64, 128, 256, 512),
    "num_warps": (2, 4, 8),
    "num_stages": (1, 2, 3, 4),
}
LEAST_GAIN = 0.03
"""A change has to be faster by this share, or noise would wander through the table."""
_MOST_ROUNDS = 3


class Found(NamedTuple):
    """Seconds of a launch with the sizes that the search began with, and with the best."""

    before_s: float
    best_s: float


def fastest(
    start: Sizes,
    choices: Mapping[str, Sequence[int]],
    measure: Callable[[Sizes], float | None],
) -> tuple[Sizes, Found]:
    """Vary one size at a time, keep what is faster, and begin again until nothing is.

    Args:
        start: sizes that can be launched.
        choices: values to try, by the size's name.
        measure: seconds of a launch; None where the sizes cannot be launched or compute something
            else. Called once for each combination.
    """
    before_s = measure(start)
    assert before_s is not None, f"{start} cannot be launched"
    tried = {start}
    best, best_s = start, before_s
    for _ in range(_MOST_ROUNDS):
        round_start = best
        for name, values in choices.items():
            for value in values:
                candidate = best._replace(**{name: value})
                if candidate in tried:
                    continue
                tried.add(candidate)
                seconds = measure(candidate)
                if seconds is not None and seconds < (1 - LEAST_GAIN) * best_s:
                    best, best_s = candidate, seconds
        if best == round_start:
            break
    return best, Found(before_s, best_s)
