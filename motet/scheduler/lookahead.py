"""Which adapters come in: from disk to host and from host to device, ahead of their requests.

Owns: what is read and copied for whom, and how far ahead of admission.
Does not know: threads and files (`engine/loader.py`), nor which sequences run (`scheduler.py`).
"""

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

from motet.memory.page_pool import ADAPTER
from motet.memory.residency import Placement
from motet.memory.unified import UnifiedMemory

# Reads under way at once: enough to keep the loader threads busy, and few enough that one which
# becomes urgent is not behind many.
MAX_READS = 4


class AdapterLookahead:
    """Starts reads and copies, and remembers those of this step.

    Attributes:
        reads: digests to read from disk into host memory.
        copies: placements to copy from host memory to the device.
    """

    def __init__(self, memory: UnifiedMemory) -> None:
        self._residency = memory.residency
        self._host = memory.host
        self._reclaimer = memory.reclaimer
        self._host_is_full = False
        self.reads: list[str] = []
        self.copies: list[Placement] = []

    def begin_step(self) -> None:
        """Forget what the last step started."""
        self._host_is_full = False
        self.reads = []
        self.copies = []

    @property
    def may_read(self) -> bool:
        """Whether one more read may start in this step."""
        return self._host.num_reading < MAX_READS and not self._host_is_full

    def bring_in(
        self,
        digests: Collection[str],
        num_kv_pages: int,
        protected: Collection[str],
        wanted: SequenceOf[str],
        *,
        may_copy: bool,
        may_move: bool = False,
    ) -> bool:
        """Take adapters that are needed together one tier nearer.

        Those that are on their way stay there. Nothing is copied unless all of them have room.

        Args:
            digests: some of them may be resident.
            num_kv_pages: pages that have to be left for sequences that are admitted before the
                one that needs them; if they are not, nothing is copied yet.
            protected: adapters that are needed no later than these: they stay where they are.
            wanted: see `Reclaimer.make_room`.
            may_copy: whether the device is to be given to them yet.
            may_move: whether those of them that have come may go again, for a place in the tables:
                nobody who comes before needs them.

        Returns:
            False if the device has no room for them: whoever comes later should not take what is
            left.
        """
        missing = [digest for digest in digests if not self._residency.is_placed(digest)]
        at_hand = [digest for digest in missing if self._host.has(digest)]
        if len(at_hand) < len(missing):
            self._read([digest for digest in missing if digest not in at_hand], protected)
        if not at_hand:
            return True
        num_pages = sum(map(self._residency.num_pages, missing))
        if not self._reclaimer.has_room(num_pages, 0, protected):
            return False
        if may_copy and self._reclaimer.has_room(num_pages, num_kv_pages, protected):
            movable = digests if may_move else ()
            return all(self._copy(digest, protected, movable, wanted) for digest in at_hand)
        return True

    def _read(self, digests: Collection[str], protected: Collection[str]) -> None:
        # A copy of what is on the device is not needed: what it takes may be what the others lack.
        kept = [digest for digest in protected if not self._residency.is_resident(digest)]
        for digest in digests:
            if self.may_read and not self._host.is_reading(digest):
                self._begin_read(digest, kept)

    def _begin_read(self, digest: str, protected: Collection[str]) -> None:
        if self._host.begin_read(digest, self._residency.num_pages(digest), protected):
            self.reads.append(digest)
        else:
            self._host_is_full = True

    def _copy(
        self,
        digest: str,
        protected: Collection[str],
        movable: Collection[str],
        wanted: SequenceOf[str],
    ) -> bool:
        num_pages = self._residency.num_pages(digest)
        has_room = self._reclaimer.make_room(num_pages, ADAPTER, protected, wanted)
        assert has_room, "room that was counted cannot be made"
        while (placement := self._residency.begin_load(digest)) is None:
            # Pages suffice, but no stretch of the row table is long enough: evict until one is.
            # At last also what it is needed with, which then comes to lie beside it.
            if not (
                self._reclaimer.evict_adapter(protected, wanted)
                or self._reclaimer.evict_adapter({*protected} - {*movable}, wanted)
            ):
                return False
        self._host.hold(digest)
        self.copies.append(placement)
        return True
