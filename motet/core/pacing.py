"""How long work that runs beside the step lets others go first.

Owns: the name and the meaning of a pace.
Does not know: who sets it (`engine/pace.py`).
"""

from collections.abc import Callable

# Called between pieces of work of at most a few milliseconds; it may wait.
Pace = Callable[[], None]


def at_once() -> None:
    """The pace of work that nobody else has to wait for."""
