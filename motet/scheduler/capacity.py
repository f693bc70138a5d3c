"""What could ever run: the size of requests against the size of the pool.

Owns: the arithmetic, with pinned adapters counted in.
Does not know: what runs now.
"""

from collections.abc import Collection, Iterable
from collections.abc import Sequence as SequenceOf

from motet.core.messages import AddRequest
from motet.memory.page_pool import ADAPTER, KV
from motet.memory.unified import UnifiedMemory
from motet.scheduler.sequence import Sequence


class Capacity:
    """Whether requests and pins fit in the pool."""

    def __init__(self, memory: UnifiedMemory) -> None:
        self._pool = memory.pool
        self._residency = memory.residency
        self._geometry = memory.geometry

    def adapters(self, request: AddRequest) -> SequenceOf[str]:
        """All that a request needs on the device, each once."""
        if request.parts:
            return [part.digest for part in request.parts]
        return () if request.digest is None else self._residency.adapters(request.digest)

    def num_pages_needed(self, request: AddRequest) -> int:
        """Pages that a request takes at its longest, its adapters' included."""
        num_adapter_pages = sum(map(self._residency.num_pages, self.adapters(request)))
        return self._num_kv_pages_needed(request) + num_adapter_pages

    def fits(self, request: AddRequest) -> bool:
        """Whether a request could run if nothing else did; pinned adapters stay."""
        return self._fits(self._num_kv_pages_needed(request), self.adapters(request), ())

    def may_pin(self, digest: str, live: Iterable[Sequence]) -> bool:
        """Whether an adapter or a whole set can be pinned.

        It can if half of the pool is left, and room for each of the sequences there are.
        """
        adapters = self._residency.adapters(digest)
        pinned = {*self._residency.pinned(), *adapters}
        num_pinned = sum(self._residency.num_pages(each) for each in pinned)
        if 2 * num_pinned > self._pool.capacity(ADAPTER):
            return False
        return all(
            self._fits(self._geometry.num_kv_pages(seq.max_num_tokens), seq.adapters, adapters)
            for seq in live
        )

    def _num_kv_pages_needed(self, request: AddRequest) -> int:
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        return self._geometry.num_kv_pages(num_tokens)

    def _fits(self, num_kv_pages: int, adapters: Collection[str], pinned: Collection[str]) -> bool:
        """Whether this is there besides what is pinned, with `pinned` in addition."""
        kept = {*self._residency.pinned(), *pinned, *adapters}
        num_adapter_pages = sum(self._residency.num_pages(each) for each in kept)
        if self._pool.is_partitioned:
            return num_kv_pages <= self._pool.capacity(
                KV
            ) and num_adapter_pages <= self._pool.capacity(ADAPTER)
        return num_kv_pages + num_adapter_pages <= self._pool.num_pages
