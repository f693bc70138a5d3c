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
        digest: str,
        num_kv_pages: int,
        protected: Collection[str],
        wanted: SequenceOf[str],
        *,
        may_copy: bool,
    ) -> bool:
        """Take an adapter one tier nearer, unless it is on its way already.

        Args:
            digest: an adapter that is not resident.
            num_kv_pages: pages that have to be left for sequences that are admitted before the
                one that needs it; if they are not, it is not copied yet.
            protected: adapters that are needed no later than this one: they stay where they are.
            wanted: see `Reclaimer.make_room`.
            may_copy: whether the device is to be given to it yet.

        Returns:
            False if the device has no room for it: whoever comes later should not take what is
            left.
        """
        if self._residency.is_loading(digest):
            return True
        if not self._host.has(digest):
            self._read(digest, protected)
            return True
        num_pages = self._residency.num_pages(digest)
        if not self._reclaimer.has_room(num_pages, 0, protected):
            return False
        if may_copy and self._reclaimer.has_room(num_pages, num_kv_pages, protected):
            return self._copy(digest, num_pages, protected, wanted)
        return True

    def _read(self, digest: str, protected: Collection[str]) -> None:
        if not self.may_read or self._host.is_reading(digest):
            return
        if self._host.begin_read(digest, self._residency.num_pages(digest), protected):
            self.reads.append(digest)
        else:
            self._host_is_full = True

    def _copy(
        self,
        digest: str,
        num_pages: int,
        protected: Collection[str],
        wanted: SequenceOf[str],
    ) -> bool:
        has_room = self._reclaimer.make_room(num_pages, ADAPTER, protected, wanted)
        assert has_room, "room that was counted cannot be made"
        while (placement := self._residency.begin_load(digest)) is None:
            # Pages suffice, but no stretch of the row table is long enough: evict until one is.
            if not self._reclaimer.evict_adapter(protected, wanted):
                return False
        self._host.hold(digest)
        self.copies.append(placement)
        return True
