"""The pace of loader threads that share their cores with the running step.

Owns: how much of a core a load may take while the engine steps.
Does not know: what a load does.

On a CPU the step's threads meet at a barrier hundreds of times in a step. Whatever takes one of
their cores for some milliseconds holds all of them up for that long, be its priority ever so low:
the step grows by more than the time that was taken. So a load gives way by itself: it works for a
moment and then sleeps for a multiple of that. The more loads are pending, the more of a core they
get, and more than in proportion: then requests wait for them, each for all before it.
"""

import threading
import time

# Share of one core for a single pending load. It delays a step by about twice that.
_SHARE_OF_ONE_LOAD = 0.03
# Work between two naps [s]: each waking costs the step something, too.
_STINT_S = 2e-3
# Longest nap [s]: what is pending, and whether the engine steps, is looked at anew after it.
_MAX_NAP_S = 0.05


class LoadPace:
    """Keeps a count of pending loads; each takes the pace from `begin` with it.

    Args:
        gives_way: whether the step needs the cores; a GPU's leaves them to others.

    Attributes:
        is_stepping: whether the engine is at work; while it is not, loads go at full speed.
    """

    def __init__(self, *, gives_way: bool = True) -> None:
        self._gives_way = gives_way
        self._lock = threading.Lock()
        self._num_pending = 0
        self.is_stepping = False

    def add(self) -> None:
        """One more load is pending."""
        with self._lock:
            self._num_pending += 1

    def remove(self) -> None:
        """One load has ended."""
        with self._lock:
            self._num_pending -= 1

    def begin(self) -> "OneLoad":
        """The pace of one load."""
        return OneLoad(self)

    def share(self) -> float:
        """What each load may take of a core now, above 0 to 1."""
        if not (self._gives_way and self.is_stepping):
            return 1.0
        return min(1.0, _SHARE_OF_ONE_LOAD * self._num_pending**2)


class OneLoad:
    """A pace, to be called now and then from the thread that works on the load.

    Attributes:
        rested_s: time that was left to the step so far.
    """

    def __init__(self, loads: LoadPace) -> None:
        self._loads = loads
        self._worked_until_s = time.thread_time()  # processor time at the end of the last rest
        self.rested_s = 0.0

    def __call__(self) -> None:
        worked_s = time.thread_time() - self._worked_until_s
        if worked_s < _STINT_S:
            return
        while (share := self._loads.share()) < 1.0:
            owed_s = worked_s * (1.0 / share - 1.0)
            if owed_s <= 0.0:
                break
            nap_s = min(owed_s, _MAX_NAP_S)
            time.sleep(nap_s)
            self.rested_s += nap_s
            worked_s -= nap_s * share / (1.0 - share)
        self._worked_until_s = time.thread_time()
