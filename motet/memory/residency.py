"""Which adapters are on the device, which are on their way, and which may be evicted.

Owns: slots, pages and table rows of adapters; their use counts; the eviction of idle adapters.
Does not know: tensors (`device_pool.py` moves them), nor why an adapter is wanted (`scheduler/`).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from motet.memory.page_pool import PagePool
from motet.memory.ranges import RangeAllocator


@dataclass(frozen=True)
class Placement:
    """Where one adapter goes on the device.

    Attributes:
        digest: the adapter's identity.
        slot: its row in the device tables.
        pages: page ids, in the order of the layout's page numbers.
        first_row: its first entry in the row-offset table.
        num_rows: its entries in the row-offset table.
    """

    digest: str
    slot: int
    pages: tuple[int, ...]
    first_row: int
    num_rows: int


@dataclass
class _Known:
    num_pages: int
    num_rows: int
    placement: Placement | None = None
    is_loading: bool = False
    num_users: int = 0
    last_use: int = field(default=0)


class AdapterResidency:
    """Residency of adapters on the device, by digest.

    An adapter is known (its packed copy is in host memory), then loading (it has pages, a copy is
    under way), then resident. Each running request holds one use of its adapter. A resident
    adapter without uses is idle: its pages count as cached, and the least recently used goes
    first when pages are short.
    """

    def __init__(self, pool: PagePool, num_slots: int, row_capacity: int) -> None:
        self._pool = pool
        self._known: dict[str, _Known] = {}
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._rows = RangeAllocator(row_capacity)
        self._clock = 0
        self.num_loads = 0
        self.num_evictions = 0

    def register(self, digest: str, *, num_pages: int, num_rows: int) -> None:
        """Make a digest known. A digest that is known stays as it is."""
        self._known.setdefault(digest, _Known(num_pages, num_rows))

    def forget(self, digest: str) -> bool:
        """Drop a digest and its pages. False while it is in use or being copied."""
        known = self._known[digest]
        if known.num_users or known.is_loading:
            return False
        self._vacate(known)
        del self._known[digest]
        return True

    def is_known(self, digest: str) -> bool:
        return digest in self._known

    def is_resident(self, digest: str) -> bool:
        known = self._known[digest]
        return known.placement is not None and not known.is_loading

    def is_loading(self, digest: str) -> bool:
        return self._known[digest].is_loading

    def slot(self, digest: str) -> int:
        """The row of a resident adapter in the device tables."""
        placement = self._known[digest].placement
        assert placement is not None, f"adapter {digest} is not on the device"
        return placement.slot

    def num_pages(self, digest: str) -> int:
        """Pages that the adapter takes on the device."""
        return self._known[digest].num_pages

    def acquire(self, digest: str) -> None:
        """Take one use of a resident adapter: it stays until the use is released."""
        assert self.is_resident(digest), f"adapter {digest} is not resident"
        known = self._known[digest]
        known.num_users += 1
        self._touch(known)

    def release(self, digest: str) -> None:
        """Give one use back."""
        known = self._known[digest]
        assert known.num_users > 0, f"adapter {digest} has no use to release"
        known.num_users -= 1
        self._touch(known)

    def begin_load(self, digest: str) -> Placement | None:
        """Give the adapter pages, a slot and table rows; it is loading until `finish_load`.

        Returns None, with nothing taken, if there is no room. Room is made by `evict_idle`.
        """
        known = self._known[digest]
        assert known.placement is None, f"adapter {digest} is on the device already"
        if not self._free_slots or self._pool.num_free < known.num_pages:
            return None
        first_row = self._rows.allocate(known.num_rows)
        if first_row is None:
            return None
        pages = self._pool.allocate(known.num_pages, _owner(digest))
        assert pages is not None
        known.placement = Placement(
            digest, self._free_slots.pop(), tuple(pages), first_row, known.num_rows
        )
        known.is_loading = True
        self._touch(known)
        self.num_loads += 1
        return known.placement

    def finish_load(self, digest: str) -> None:
        """The copy is done: the adapter is resident."""
        self._known[digest].is_loading = False

    def fail_load(self, digest: str) -> None:
        """The copy failed: the pages are free again."""
        known = self._known[digest]
        known.is_loading = False
        self._vacate(known)

    def evict_idle(self, protected: Collection[str], wanted: Sequence[str] = ()) -> bool:
        """Evict one idle adapter that is not protected: the least recently used.

        Args:
            protected: digests that stay.
            wanted: digests that will be needed, the soonest first. They go only when no other is
                left, and then the one needed last: its copy has the longest time to come back.

        Returns:
            False where there is none.
        """
        queue = {digest: position for position, digest in enumerate(wanted)}
        idle = [
            (-queue.get(digest, len(wanted)), known.last_use, digest)
            for digest, known in self._known.items()
            if _is_idle(known) and digest not in protected
        ]
        if not idle:
            return False
        self._vacate(self._known[min(idle)[2]])
        self.num_evictions += 1
        return True

    def num_evictable_pages(self, protected: Collection[str] = ()) -> int:
        """Pages of the idle adapters that are not protected."""
        return sum(
            known.num_pages
            for digest, known in self._known.items()
            if _is_idle(known) and digest not in protected
        )

    def resident(self) -> Iterator[str]:
        """Digests that are on the device now."""
        return (digest for digest in self._known if self.is_resident(digest))

    def _vacate(self, known: _Known) -> None:
        placement = known.placement
        if placement is None:
            return
        self._pool.free(placement.pages, _owner(placement.digest))
        self._rows.free(placement.first_row, placement.num_rows)
        self._free_slots.append(placement.slot)
        known.placement = None

    def _touch(self, known: _Known) -> None:
        self._clock += 1
        known.last_use = self._clock


def _is_idle(known: _Known) -> bool:
    return known.placement is not None and not known.is_loading and known.num_users == 0


def _owner(digest: str) -> str:
    return f"adapter:{digest}"
