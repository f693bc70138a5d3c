"""The KV pages of sequences: given when they start and grow, shared through the prefix cache.

Owns: which pages a running sequence has, and what becomes of them when it stops.
Does not know: the queue, and who is preempted (`scheduler.py`).
"""

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

from motet.memory.page_pool import KV, PoolCorruptionError
from motet.memory.unified import UnifiedMemory
from motet.scheduler.page_table import PageTable
from motet.scheduler.sequence import Sequence


class SequencePages:
    """Gives pages to sequences and takes them back.

    Args:
        memory: what sequences and adapters share.
        max_running: sequences that have pages at once at most.
        keeps_prefixes: have the prefix cache keep what sequences compute.

    Attributes:
        table: the pages of the sequences that have any.
        num_lookup_tokens: prompt tokens of the sequences that have started, since the beginning.
        num_hit_tokens: of these, found in the prefix cache.
    """

    def __init__(self, memory: UnifiedMemory, *, max_running: int, keeps_prefixes: bool) -> None:
        self._pool = memory.pool
        self._prefixes = memory.prefixes
        self._reclaimer = memory.reclaimer
        self._geometry = memory.geometry
        self._page_size = memory.geometry.page_size
        self._keeps_prefixes = keeps_prefixes
        self.table = PageTable(max_running)
        self.num_lookup_tokens = 0
        self.num_hit_tokens = 0

    def start(
        self,
        seq: Sequence,
        num_spare: int,
        protected: Collection[str],
        wanted: SequenceOf[str],
    ) -> bool:
        """Give a waiting sequence pages for all its tokens, cached ones as far as there are any.

        Args:
            seq: the sequence.
            num_spare: pages that have to be left, free or evictable.
            protected, wanted: see `Reclaimer.make_room`.

        Returns:
            False, with nothing given, if there is no room.
        """
        max_pages = seq.num_reusable_tokens // self._page_size
        token_ids = seq.token_ids(0, seq.num_tokens)
        found = self._prefixes.match(seq.scope, token_ids, max_pages)
        self._prefixes.acquire(found)
        num_new = self._geometry.num_kv_pages(seq.num_tokens) - len(found)
        has_spare = self._reclaimer.num_reclaimable(KV, protected) >= num_new + num_spare
        if not (has_spare and self._reclaimer.make_room(num_new, KV, protected, wanted)):
            self._prefixes.release(found)
            return False
        new_pages = self._pool.allocate(num_new, seq.owner)
        assert new_pages is not None
        self._prefixes.touch(found)
        seq.kept = found
        seq.pages = [node.page for node in found if node.page is not None] + new_pages
        seq.row = self.table.take_row()
        self.table.write(seq.row, 0, seq.pages)
        seq.num_computed_tokens = len(found) * self._page_size
        seq.num_scheduled_tokens = seq.num_computed_tokens
        if seq.num_cached_tokens is None:
            seq.num_cached_tokens = seq.num_computed_tokens
            self.num_lookup_tokens += len(seq.prompt_token_ids)
            self.num_hit_tokens += seq.num_computed_tokens
        return True

    def grow(
        self,
        seq: Sequence,
        num_tokens: int,
        protected: Collection[str],
        wanted: SequenceOf[str],
    ) -> bool:
        """Give a running sequence the pages for this many tokens. False if there is no room."""
        num_more = self.num_missing(seq, num_tokens)
        if num_more <= 0:
            return True
        if not self._reclaimer.make_room(num_more, KV, protected, wanted):
            return False
        pages = self._pool.allocate(num_more, seq.owner)
        assert pages is not None
        assert seq.row is not None
        self.table.write(seq.row, len(seq.pages), pages)
        seq.pages += pages
        return True

    def num_missing(self, seq: Sequence, num_tokens: int) -> int:
        """Pages that a sequence needs beside those it has, to hold this many tokens."""
        return self._geometry.num_kv_pages(num_tokens) - len(seq.pages)

    def keep_computed(self, seq: Sequence) -> None:
        """Hand the pages that have been filled to the prefix cache; the sequence shares them."""
        if not self._keeps_prefixes:
            return
        while (len(seq.kept) + 1) * self._page_size <= seq.num_computed_tokens:
            self._keep_next(seq)

    def _keep_next(self, seq: Sequence) -> None:
        index = len(seq.kept)
        node = self._prefixes.extend(
            seq.scope,
            seq.kept[-1] if seq.kept else None,
            seq.token_ids(index * self._page_size, (index + 1) * self._page_size),
            seq.pages[index],
            seq.owner,
            seq.parts,
        )
        assert node.page is not None
        assert seq.row is not None
        if node.page != seq.pages[index]:
            seq.pages[index] = node.page
            self.table.write(seq.row, index, [node.page])
        seq.kept.append(node)

    def free(self, seq: Sequence, *, is_good: bool = True) -> None:
        """Take all pages back. What the prefix cache has stays cached, if it `is_good`."""
        self._pool.free(seq.pages[len(seq.kept) :], seq.owner)
        self._prefixes.release(seq.kept)
        if not is_good:
            self._prefixes.discard(seq.kept)
        assert seq.row is not None
        self.table.give_back(seq.row)
        seq.row = None
        seq.pages = []
        seq.kept = []
        seq.num_computed_tokens = seq.num_scheduled_tokens = 0

    def check(self, running: SequenceOf[Sequence]) -> None:
        """Verify that the pool's KV pages are those of the running sequences and of the cache.

        Their table rows are checked, too.

        Raises:
            PoolCorruptionError: pages are lost, or held twice.
        """
        own = [page for seq in running for page in seq.pages[len(seq.kept) :]]
        if len(set(own)) != len(own) or len(own) != self._pool.num_owned(KV):
            raise PoolCorruptionError(
                f"running sequences hold {len(own)} pages of their own ({len(set(own))} "
                f"distinct), but the pool counts {self._pool.num_owned(KV)} KV pages"
            )
        for seq in running:
            if seq.row is None or self.table.pages(seq.row, len(seq.pages)) != seq.pages:
                raise PoolCorruptionError(f"{seq.request_id} has other pages than its table row")
            if [node.page for node in seq.kept] != seq.pages[: len(seq.kept)]:
                raise PoolCorruptionError(f"{seq.request_id} has other pages than it shares")
        self._prefixes.check([node for seq in running for node in seq.kept])
