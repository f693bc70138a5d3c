"""Which adapters are on the device, which are on their way, and which of them are idle.

Owns: slots, pages and table rows of adapters; their use counts, pins and weights.
Does not know: tensors (`device_pool.py` moves them), why an adapter is wanted (`scheduler/`), nor
when room is needed (`reclaim.py` evicts).
"""

from collections.abc import Collection
from dataclasses import dataclass

from motet.memory.candidates import Candidates
from motet.memory.eviction import EvictionPolicy, Kind
from motet.memory.members import Members
from motet.memory.page_pool import ADAPTER, PagePool
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
    members: Members | None
    placement: Placement | None = None
    is_loading: bool = False
    num_users: int = 0
    num_pins: int = 0
    num_prefix_pages: int = 0
    weight: float | None = None  # None: no request has asked for it
    was_wanted_again: bool = False

    @property
    def is_idle(self) -> bool:
        is_held = self.is_loading or self.num_users > 0 or self.num_pins > 0
        return self.placement is not None and not is_held


class AdapterResidency:
    """Residency of adapters on the device, by digest.

    An adapter is known, then loading (it has pages, a copy is under way), then resident. Each
    running request holds one use of its adapter. A resident adapter without uses and pins is
    idle: its pages count as cached. It is a candidate for eviction once no cached prefix depends
    on it. An adapter keeps its weight when it is evicted: it is as popular as it was.

    A router is an adapter like any other, and so is each of its experts: they come and go one by
    one. Only `members` knows that they are used together.

    Attributes:
        candidates: what may be evicted now.
        num_idle_pages: pages of all idle adapters.
        num_pinned_pages: pages of all pinned adapters, on the device or not.
        num_loads, num_evictions: since the start.
    """

    def __init__(
        self, pool: PagePool, policy: EvictionPolicy, num_slots: int, row_capacity: int
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._known: dict[str, _Known] = {}
        self._placed: dict[str, _Known] = {}
        self._pinned: dict[str, _Known] = {}
        self._idle: dict[str, None] = {}  # in the order in which they became idle
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._rows = RangeAllocator(row_capacity)
        self.candidates: Candidates[str] = Candidates()
        self.num_idle_pages = 0
        self.num_loads = 0
        self.num_evictions = 0

    @property
    def num_known(self) -> int:
        return len(self._known)

    @property
    def num_pinned_pages(self) -> int:
        return sum(known.num_pages for known in self._pinned.values())

    def register(
        self, digest: str, *, num_pages: int, num_rows: int, members: Members | None = None
    ) -> None:
        """Make a digest known. A digest that is known stays as it is.

        Args:
            digest: of an adapter or a routed set.
            num_pages, num_rows: what it takes itself: of a set, its gates.
            members: of a routed set.
        """
        self._known.setdefault(digest, _Known(num_pages, num_rows, members))

    def forget(self, digest: str) -> bool:
        """Drop a digest and its pages. False while it is in use or being copied.

        Its cached prefixes must have gone before.
        """
        known = self._known[digest]
        if known.num_users or known.is_loading:
            return False
        assert known.num_prefix_pages == 0, f"adapter {digest} has cached prefixes"
        self._vacate(digest, known)
        self._pinned.pop(digest, None)
        del self._known[digest]
        return True

    def is_known(self, digest: str) -> bool:
        return digest in self._known

    def members(self, digest: str) -> Members | None:
        """What a routed set consists of; None for an adapter."""
        return self._known[digest].members

    def adapters(self, digest: str) -> tuple[str, ...]:
        """All that has to be resident for a digest: itself, and the members of a routed set."""
        members = self._known[digest].members
        return (digest,) if members is None else members.adapters

    def is_resident(self, digest: str) -> bool:
        known = self._known[digest]
        return known.placement is not None and not known.is_loading

    def is_loading(self, digest: str) -> bool:
        return self._known[digest].is_loading

    def is_placed(self, digest: str) -> bool:
        """Whether it is on the device, or being copied there."""
        return self._known[digest].placement is not None

    def is_idle(self, digest: str) -> bool:
        return digest in self._idle

    def is_pinned(self, digest: str) -> bool:
        return self._known[digest].num_pins > 0

    def idle(self) -> list[str]:
        """The idle adapters, also those that cached prefixes depend on."""
        return list(self._idle)

    def weight(self, digest: str) -> float:
        """What an adapter is worth: see `memory/eviction.py`."""
        weight = self._known[digest].weight
        assert weight is not None, f"adapter {digest} was never wanted nor idle"
        return weight

    def slot(self, digest: str) -> int:
        """The row of a resident adapter in the device tables."""
        placement = self._known[digest].placement
        assert placement is not None, f"adapter {digest} is not on the device"
        return placement.slot

    def num_pages(self, digest: str) -> int:
        """Pages that the adapter takes on the device."""
        return self._known[digest].num_pages

    def num_users(self, digest: str) -> int:
        """Running sequences that use the adapter."""
        return self._known[digest].num_users

    def num_idle_pages_of(self, digests: Collection[str]) -> int:
        """Pages of those of the digests that are idle."""
        return sum(self._known[digest].num_pages for digest in {*digests} if digest in self._idle)

    def want(self, digest: str) -> None:
        """A request asks for the adapter: it is worth more from now on."""
        known = self._known[digest]
        if known.weight is None:
            known.weight = self._policy.first(Kind.ADAPTER)
        else:
            known.weight = self._policy.again(
                Kind.ADAPTER, known.weight, was_used_again=known.was_wanted_again
            )
            known.was_wanted_again = True
        if digest in self.candidates:
            self.candidates.offer(digest, known.weight)

    def acquire(self, digest: str) -> None:
        """Take one use of a resident adapter: it stays until the use is released."""
        assert self.is_resident(digest), f"adapter {digest} is not resident"
        known = self._known[digest]
        known.num_users += 1
        self._update(digest, known)

    def release(self, digest: str) -> None:
        """Give one use back."""
        known = self._known[digest]
        assert known.num_users > 0, f"adapter {digest} has no use to release"
        known.num_users -= 1
        self._update(digest, known)

    def pin(self, digest: str) -> None:
        """Have the adapter stay once it is resident; as many `unpin` take that back."""
        known = self._known[digest]
        known.num_pins += 1
        self._pinned[digest] = known
        self._update(digest, known)

    def unpin(self, digest: str) -> None:
        """Take one pin back."""
        known = self._known[digest]
        assert known.num_pins > 0, f"adapter {digest} has no pin to take back"
        known.num_pins -= 1
        if known.num_pins == 0:
            del self._pinned[digest]
        self._update(digest, known)

    def pinned(self) -> list[str]:
        """The pinned adapters, whether or not they are on the device."""
        return list(self._pinned)

    def change_prefix_pages(self, digest: str, change: int) -> None:
        """Count cached pages that were computed with this adapter: they have to go before it."""
        known = self._known[digest]
        known.num_prefix_pages += change
        assert known.num_prefix_pages >= 0
        self._update(digest, known)

    def begin_load(self, digest: str) -> Placement | None:
        """Give the adapter pages, a slot and table rows; it is loading until `finish_load`.

        Returns None, with nothing taken, if there is no room.
        """
        known = self._known[digest]
        assert known.placement is None, f"adapter {digest} is on the device already"
        if not self._free_slots or self._pool.num_available(ADAPTER) < known.num_pages:
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
        self._placed[digest] = known
        self.num_loads += 1
        return known.placement

    def finish_load(self, digest: str) -> None:
        """The copy is done: the adapter is resident."""
        known = self._known[digest]
        known.is_loading = False
        self._update(digest, known)

    def fail_load(self, digest: str) -> None:
        """The copy failed: the pages are free again."""
        known = self._known[digest]
        known.is_loading = False
        self._vacate(digest, known)

    def evict(self, digest: str) -> None:
        """Free the pages of an idle adapter on which no cached prefix depends."""
        known = self._known[digest]
        assert digest in self.candidates, f"adapter {digest} may not be evicted"
        self._vacate(digest, known)
        self.num_evictions += 1

    def resident(self) -> list[str]:
        """Digests that are on the device now."""
        return [digest for digest, known in self._placed.items() if not known.is_loading]

    def loading(self) -> list[str]:
        """Digests that are being copied."""
        return [digest for digest, known in self._placed.items() if known.is_loading]

    def _vacate(self, digest: str, known: _Known) -> None:
        placement = known.placement
        if placement is None:
            return
        self._pool.free(placement.pages, _owner(digest))
        self._rows.free(placement.first_row, placement.num_rows)
        self._free_slots.append(placement.slot)
        known.placement = None
        del self._placed[digest]
        self._update(digest, known)

    def _update(self, digest: str, known: _Known) -> None:
        """Bring the idle set and the candidates in line with what is known."""
        if known.is_idle and digest not in self._idle:
            self._idle[digest] = None
            self.num_idle_pages += known.num_pages
        elif not known.is_idle and digest in self._idle:
            del self._idle[digest]
            self.num_idle_pages -= known.num_pages
        if known.is_idle and known.weight is None:  # loaded, though no request asked for it
            known.weight = self._policy.first(Kind.ADAPTER)
        if not known.is_idle or known.num_prefix_pages > 0:
            self.candidates.withdraw(digest)
        elif digest not in self.candidates:
            self.candidates.offer(digest, self.weight(digest))


def _owner(digest: str) -> str:
    return f"{ADAPTER}:{digest}"
