"""Who comes off the line, and whose adapters are brought nearer meanwhile.

Owns: admission, and the lookahead along the line.
Does not know: the running sequences' growth and end (`scheduler.py`), nor who is next (`line.py`).
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from motet.memory.members import member_slots
from motet.memory.page_pool import KV
from motet.memory.unified import UnifiedMemory
from motet.scheduler.line import WaitingLine
from motet.scheduler.lookahead import AdapterLookahead
from motet.scheduler.sequence import ScheduledChunk, Sequence
from motet.scheduler.sequence_pages import SequencePages
from motet.scheduler.wanted import Wanted

# Waiting sequences, beyond those that may run at once, whose adapters are copied to the device: a
# copy takes about a step, and this many ends of sequences in one step are rare.
LOOKAHEAD_SEQUENCES = 4
# Those whose adapters are read from disk: reads take longer than a step.
READ_AHEAD_SEQUENCES = 32

_place = attrgetter("place")


@dataclass(slots=True)
class _Look:
    """One look along the line.

    Attributes:
        num_kv_pages: what those that run, and those that were passed over, will take.
        num_passed: sequences that stay in line for now.
        adapters: of all that the look has come to: they stay where they are.
    """

    num_kv_pages: int
    num_passed: int = 0
    adapters: set[str] = field(default_factory=set)


class Admission:
    """Gives waiting sequences what they need to run.

    Args:
        memory, pages: what is given.
        line: who waits.
        running: who runs, by place; those that start are added.
        lookahead: starts reads and copies.
        max_running: sequences that run at once at most.
        clock: the time [s].

    Attributes:
        wanted: adapters of the sequences that came next when the step began, the soonest first.
    """

    def __init__(
        self,
        memory: UnifiedMemory,
        pages: SequencePages,
        line: WaitingLine,
        running: list[Sequence],
        lookahead: AdapterLookahead,
        max_running: int,
        clock: Callable[[], float],
    ) -> None:
        self._residency = memory.residency
        self._geometry = memory.geometry
        self._reclaimer = memory.reclaimer
        self._pages = pages
        self._line = line
        self._running = running
        self._lookahead = lookahead
        self._max_running = max_running
        self._clock = clock
        self.wanted = Wanted(self._find_wanted)

    def admit(self, chunks: list[ScheduledChunk], budget: int) -> None:
        """Start sequences in the order of the line, and bring in what the others wait for.

        Args:
            chunks: of the step; those of the sequences that start are added.
            budget: tokens that the step has left.
        """
        look = _Look(num_kv_pages=len(self._running))  # which may grow by a page each
        while budget > 0 and self._may_call(look.num_passed):
            seq = self._line.turn(look.num_passed)
            if seq is None:
                return
            look.adapters.update(seq.adapters)
            if not self._is_ready(seq):
                if not self._pass_over(seq, look):
                    return
            elif self._start(seq, look.adapters):
                budget -= self._schedule(seq, chunks, budget)
            else:
                return
        for seq in self._line.following(look.num_passed, READ_AHEAD_SEQUENCES):
            if not (self._comes_next(look.num_passed) or self._lookahead.may_read):
                return
            look.adapters.update(seq.adapters)
            if not self._pass_over(seq, look):
                return

    def admit_owed(self, chunks: list[ScheduledChunk], budget: int) -> int:
        """Start those first in line that are owed their turn, before others get what is left.

        Args:
            chunks, budget: as for `admit`.

        Returns:
            The tokens that are left.
        """
        while budget > 0 and (owed := self._line.owed()) is not None:
            if not (self._is_ready(owed) and self.has_room(owed)):
                break
            seq = self._line.turn(0)
            assert seq is owed
            if not self._start(seq, {*seq.adapters}):
                break
            budget -= self._schedule(seq, chunks, budget)
        return budget

    def bring_in_pinned(self) -> None:
        """Start what brings pinned adapters to the device that are not there."""
        for digest in self._residency.pinned():
            if not self._residency.is_resident(digest):
                self._lookahead.bring_in([digest], 0, {digest}, self.wanted, may_copy=True)

    def begin_step(self) -> None:
        """What was found out about the line in the last step holds no longer."""
        self.wanted = Wanted(self._find_wanted)

    def has_room(self, seq: Sequence) -> bool:
        """Whether what a waiting sequence needs next is there: its adapters' pages, or its own."""
        if len(self._running) >= self._max_running:
            return False
        missing = [digest for digest in seq.adapters if not self._residency.is_placed(digest)]
        if missing:
            num_pages = sum(map(self._residency.num_pages, missing))
            return self._reclaimer.has_room(num_pages, 0, seq.adapters)
        num_kv_pages = self._geometry.num_kv_pages(seq.num_tokens)
        return self._reclaimer.num_reclaimable(KV, seq.adapters) >= num_kv_pages

    def has_adapters(self, seq: Sequence) -> bool:
        """Whether all that it uses is on the device."""
        return all(map(self._residency.is_resident, seq.adapters))

    def _find_wanted(self) -> list[str]:
        following = self._line.following(0, self._max_running + LOOKAHEAD_SEQUENCES)
        return list(dict.fromkeys(digest for seq in following for digest in seq.adapters))

    def _may_call(self, num_passed: int) -> bool:
        return len(self._running) < self._max_running and self._comes_next(num_passed)

    def _comes_next(self, num_passed: int) -> bool:
        """Whether a sequence that comes after these in line gets its adapters copied yet."""
        return len(self._running) + num_passed < self._max_running + LOOKAHEAD_SEQUENCES

    def _is_ready(self, seq: Sequence) -> bool:
        return self.has_adapters(seq) and (seq.guide is None or seq.guide.is_ready)

    def _pass_over(self, seq: Sequence, look: _Look) -> bool:
        """Bring in what a sequence waits for. False if there is no room: then nobody comes next."""
        look.num_kv_pages += self._geometry.num_kv_pages(seq.num_tokens)
        is_first = look.num_passed == 0
        if not self.has_adapters(seq) and not self._lookahead.bring_in(
            seq.adapters,
            # The first in line leaves nothing for others: they are behind it.
            0 if is_first else look.num_kv_pages,
            look.adapters,
            self.wanted,
            may_copy=self._comes_next(look.num_passed),
            may_move=is_first,
        ):
            return False
        look.num_passed += 1
        return True

    def _schedule(self, seq: Sequence, chunks: list[ScheduledChunk], budget: int) -> int:
        """Give a sequence that has started tokens of the step; how many."""
        chunk = seq.schedule(min(budget, seq.num_unscheduled_tokens))
        chunks.append(chunk)
        return chunk.num_new_tokens

    def _start(self, seq: Sequence, protected: set[str]) -> bool:
        """Give a waiting sequence its pages and have it run. False if there is no room."""
        # One that was preempted returns when the others have room to grow again.
        num_spare = len(self._running) if seq.num_preemptions else 0
        if not self._pages.start(seq, num_spare, protected, self.wanted):
            return False
        self._take_adapters(seq)
        self._line.start(seq, self._clock())
        insort(self._running, seq, key=_place)
        return True

    def _take_adapters(self, seq: Sequence) -> None:
        """Have all that it uses stay, and note where that is."""
        for digest in seq.adapters:
            self._residency.acquire(digest)
        slots = {digest: self._residency.slot(digest) for digest in seq.adapters}
        if seq.members is None:
            seq.slot = next(iter(slots.values()), None)
        else:
            seq.member_slots = member_slots(seq.members, slots)
            seq.slot = next((slot for slot, _ in seq.member_slots.fixed), None)
