"""Making room: the one eviction order over cached prefixes and idle adapters.

Owns: the comparison of the two kinds, and that an adapter's cached prefixes go before it.
Does not know: who needs the room, nor why some adapters are protected (`scheduler/`).
"""

from collections.abc import Collection, Sequence

from motet.memory.eviction import EvictionPolicy, Kind
from motet.memory.page_pool import ADAPTER, KV, PagePool
from motet.memory.prefix_cache import PrefixCache
from motet.memory.residency import AdapterResidency


class Reclaimer:
    """Frees what is worth least until there is room."""

    def __init__(
        self,
        pool: PagePool,
        residency: AdapterResidency,
        prefixes: PrefixCache,
        policy: EvictionPolicy,
    ) -> None:
        self._pool = pool
        self._residency = residency
        self._prefixes = prefixes
        self._policy = policy

    def num_reclaimable(self, kind: str, protected: Collection[str] = ()) -> int:
        """Pages that an owner of this kind could be given: free ones and what may be evicted.

        Args:
            kind: `page_pool.KV` or `page_pool.ADAPTER`.
            protected: adapters that stay.
        """
        num_pages = self._pool.num_available(kind)
        if kind == KV or not self._pool.is_partitioned:
            num_pages += self._prefixes.num_idle_pages
        if kind == ADAPTER or not self._pool.is_partitioned:
            num_pages += self._residency.num_idle_pages
            num_pages -= self._residency.num_idle_pages_of(protected)
        return num_pages

    def has_room(
        self, num_adapter_pages: int, num_kv_pages: int, protected: Collection[str]
    ) -> bool:
        """Whether both could be had at once, if everything that may be evicted were."""
        if self._pool.is_partitioned:
            return num_adapter_pages <= self.num_reclaimable(
                ADAPTER, protected
            ) and num_kv_pages <= self.num_reclaimable(KV)
        return num_adapter_pages + num_kv_pages <= self.num_reclaimable(ADAPTER, protected)

    def make_room(
        self, num_pages: int, kind: str, protected: Collection[str], wanted: Sequence[str]
    ) -> bool:
        """Evict until an owner of this kind can take `num_pages`; nothing if that is out of reach.

        Args:
            num_pages, kind: who needs how much.
            protected: adapters that stay.
            wanted: adapters that will be needed, the soonest first. They go only when nothing
                else is left, and then the one needed last.
        """
        if self.num_reclaimable(kind, protected) < num_pages:
            return False
        if self._pool.num_available(kind) >= num_pages:
            return True
        spared = {*protected, *wanted}
        while self._pool.num_available(kind) < num_pages:
            evicted = self._evict(kind, spared) or self._evict_spared(kind, protected, wanted)
            assert evicted, "pages that may be evicted cannot be found"
        return True

    def evict_adapter(self, protected: Collection[str], wanted: Sequence[str]) -> bool:
        """Evict one idle adapter, for its place in the tables, and its cached prefixes before it.

        Args:
            protected, wanted: see `make_room`.

        Returns:
            False, with nothing evicted, if there is none.
        """
        idle = [digest for digest in self._residency.idle() if digest not in protected]
        unwanted = [digest for digest in idle if digest not in wanted]
        if unwanted:
            digest = min(unwanted, key=self._dependents_and_weight)
        elif idle:
            digest = next(each for each in reversed(wanted) if each in idle)
        else:
            return False
        self._prefixes.evict_all(digest)
        self._residency.evict(digest)
        return True

    def _dependents_and_weight(self, digest: str) -> tuple[bool, float]:
        """Adapters that no cached prefix depends on go first, then the least in weight."""
        return self._prefixes.num_pages_of(digest) > 0, self._residency.weight(digest)

    def _evict(self, kind: str, spared: Collection[str]) -> bool:
        """Evict what is worth least, but for adapters that are spared."""
        is_one_pool = not self._pool.is_partitioned
        prefix = adapter = None
        if is_one_pool or kind == KV:
            prefix = self._prefixes.candidates.lowest()
        if is_one_pool or kind == ADAPTER:
            adapter = self._residency.candidates.lowest(spared)
        if prefix is not None and (
            adapter is None
            or self._policy.value(Kind.PREFIX, prefix[0])
            <= self._policy.value(Kind.ADAPTER, adapter[0])
        ):
            self._prefixes.evict(prefix[1])
            return True
        if adapter is not None:
            self._residency.evict(adapter[1])
            return True
        return False

    def _evict_spared(self, kind: str, protected: Collection[str], wanted: Sequence[str]) -> bool:
        """Evict an adapter that is wanted, or, in a partitioned pool, one that has prefixes.

        Those lie in the other part, and go before it all the same.
        """
        may_evict = not self._pool.is_partitioned or kind == ADAPTER
        return may_evict and self.evict_adapter(protected, wanted)
