"""KV of computed tokens, kept for sequences that begin alike, and shared by reference.

Owns: which pages hold which tokens' KV, who shares them, and which of them nobody uses.
Does not know: sequences and the queue (`scheduler/`), nor when room is needed (`reclaim.py`).

A tree of whole pages: a node is one page, and the path to it spells the tokens before it. Each
(tenant, digest) has a root of its own, so one tenant never sees another's pages, and a page
computed with an adapter's old content is never taken for the new. A composition's digest is no
adapter's: its pages are kept by their own worth alone, and go when one of its parts is forgotten.
Children are found by the exact
tokens of their page, not by a digest of them: there are no collisions to construct.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from motet.memory.candidates import Candidates
from motet.memory.eviction import EvictionPolicy, Kind
from motet.memory.page_pool import PREFIX, PagePool, PoolCorruptionError
from motet.memory.residency import AdapterResidency

PREFIX_OWNER = f"{PREFIX}:"

Scope = tuple[str | None, str | None]  # tenant, digest


@dataclass(eq=False, slots=True)
class PrefixPage:
    """A page of computed KV.

    Attributes:
        page: its id in the pool; None is a root, which holds no tokens.
        scope: whose it is.
        parent: the page before it; None for a root.
        tokens: the page's own tokens, as bytes of 32-bit integers.
        children: the pages after it, by their tokens.
        num_users: running sequences that read it.
        weight: see `memory/eviction.py`.
    """

    page: int | None
    scope: Scope
    parent: "PrefixPage | None"
    tokens: bytes
    weight: float
    children: "dict[bytes, PrefixPage]" = field(default_factory=dict)
    num_users: int = 0
    was_used_again: bool = False


class PrefixCache:
    """Cached pages of all scopes.

    A page with users stays, and so do all before it: a sequence holds its whole path. A page
    without users is idle, and is a candidate for eviction once it has no children.

    Attributes:
        candidates: what may be evicted now.
        num_idle_pages: pages without users.
        num_evictions: since the start.
    """

    def __init__(
        self,
        pool: PagePool,
        residency: AdapterResidency,
        policy: EvictionPolicy,
        page_size: int,
    ) -> None:
        self._pool = pool
        self._residency = residency
        self._policy = policy
        self._page_size = page_size
        self._roots: dict[Scope, PrefixPage] = {}
        self._num_pages_of: Counter[str | None] = Counter()  # by digest
        self._parts_of: dict[str, Collection[str]] = {}  # of compositions that have pages
        self.candidates: Candidates[PrefixPage] = Candidates()
        self.num_idle_pages = 0
        self.num_evictions = 0

    def num_pages_of(self, digest: str | None) -> int:
        """Cached pages that were computed with this digest; None is the base model."""
        return self._num_pages_of[digest]

    def match(self, scope: Scope, token_ids: Sequence[int], max_pages: int) -> list[PrefixPage]:
        """The cached pages with which these tokens begin, in order. Changes nothing."""
        found: list[PrefixPage] = []
        node = self._roots.get(scope)
        if node is None:
            return found
        tokens = array("I", token_ids)
        for start in range(0, max_pages * self._page_size, self._page_size):
            node = node.children.get(tokens[start : start + self._page_size].tobytes())
            if node is None:
                break
            found.append(node)
        return found

    def acquire(self, pages: Iterable[PrefixPage]) -> None:
        """Take one use of each: they stay until the uses are released."""
        for node in pages:
            if node.num_users == 0:
                self.num_idle_pages -= 1
                self.candidates.withdraw(node)
            node.num_users += 1

    def release(self, pages: Sequence[PrefixPage]) -> None:
        """Give one use of each back."""
        for node in reversed(pages):
            assert node.num_users > 0, f"page {node.page} has no use to release"
            node.num_users -= 1
            if node.num_users == 0:
                self.num_idle_pages += 1
                self._offer(node)

    def touch(self, pages: Iterable[PrefixPage]) -> None:
        """A request was spared these pages: they are worth more from now on. They are in use."""
        for node in pages:
            node.weight = self._policy.again(
                Kind.PREFIX, node.weight, was_used_again=node.was_used_again
            )
            node.was_used_again = True

    def extend(
        self,
        scope: Scope,
        parent: PrefixPage | None,
        token_ids: Sequence[int],
        page: int,
        owner: str,
        parts: Collection[str] = (),
    ) -> PrefixPage:
        """Keep a page that a sequence has computed, and take one use of it.

        Args:
            scope: the sequence's.
            parent: the page before it, which the sequence holds; None at the beginning.
            token_ids: the page's tokens.
            page: its id, owned by `owner`.
            owner: the sequence's name in the pool. The page becomes the cache's.
            parts: the adapters of a composition, whose digest the scope then has.

        Returns:
            The kept page. If another sequence has computed the same tokens meanwhile, it is that
            one's, and `page` has been freed.
        """
        tokens = array("I", token_ids).tobytes()
        before = parent if parent is not None else self._root(scope)
        node = before.children.get(tokens)
        if node is not None:
            self._pool.free([page], owner)
            self.acquire([node])
            self.touch([node])
            return node
        self._pool.hand_over(page, owner, PREFIX_OWNER)
        node = PrefixPage(page, scope, before, tokens, self._policy.first(Kind.PREFIX))
        before.children[tokens] = node
        node.num_users = 1
        self.candidates.withdraw(before)
        if parts and scope[1] is not None:
            self._parts_of[scope[1]] = parts
        self._count(scope, 1)
        return node

    def evict(self, node: PrefixPage) -> None:
        """Free a page that has neither users nor children."""
        assert node in self.candidates, f"page {node.page} may not be evicted"
        self._drop(node)
        self.num_evictions += 1

    def discard(self, pages: Sequence[PrefixPage]) -> None:
        """Free those of these idle pages that nothing else needs: their content is not good."""
        for node in reversed(pages):
            if node not in self.candidates:
                return
            self._drop(node)

    def evict_all(self, digest: str) -> None:
        """Free all pages that were computed with this adapter, to make room."""
        for node in self._leaves_first([digest]):
            self.evict(node)

    def forget(self, digest: str) -> None:
        """Free all pages that were computed with this adapter, alone or as a part of a composition.

        None of them is in use.
        """
        compositions = [each for each, parts in self._parts_of.items() if digest in parts]
        for node in self._leaves_first([digest, *compositions]):
            self._drop(node)

    def check(self, held: Sequence[PrefixPage]) -> None:
        """Verify the tree, the counts and the pool's view of them.

        Args:
            held: every use of every page, one entry each.

        Raises:
            PoolCorruptionError: a page is lost, or counted wrongly.
        """
        users = Counter(held)
        nodes = [node for root in self._roots.values() for node in _below(root)]
        pages = {node.page for node in nodes}
        if len(pages) != len(nodes) or len(nodes) != self._pool.num_owned(PREFIX):
            raise PoolCorruptionError(
                f"the prefix cache has {len(nodes)} pages ({len(pages)} distinct), but the pool "
                f"counts {self._pool.num_owned(PREFIX)}"
            )
        for node in nodes:
            if node.page is None or self._pool.owner(node.page) != PREFIX_OWNER:
                raise PoolCorruptionError(f"page {node.page} is cached, but not the cache's")
            if node.num_users != users[node]:
                raise PoolCorruptionError(
                    f"page {node.page} counts {node.num_users} users, but has {users[node]}"
                )
            may_go = node.num_users == 0 and not node.children
            if may_go != (node in self.candidates):
                raise PoolCorruptionError(f"page {node.page}: evictable is not {may_go}")
        num_idle = sum(node.num_users == 0 for node in nodes)
        counted = Counter(node.scope[1] for node in nodes)
        if num_idle != self.num_idle_pages:
            raise PoolCorruptionError(f"{num_idle} pages are idle, not {self.num_idle_pages}")
        if counted != self._num_pages_of:
            raise PoolCorruptionError("the pages of an adapter are counted wrongly")
        if not self._parts_of.keys() <= counted.keys():
            raise PoolCorruptionError("a composition without pages is remembered")

    def _leaves_first(self, digests: Collection[str]) -> list[PrefixPage]:
        scopes = [scope for scope in self._roots if scope[1] in digests]
        return [node for scope in scopes for node in list(_below(self._roots[scope]))[::-1]]

    def _root(self, scope: Scope) -> PrefixPage:
        root = self._roots.get(scope)
        if root is None:
            root = self._roots[scope] = PrefixPage(None, scope, None, b"", 0.0)
        return root

    def _offer(self, node: PrefixPage) -> None:
        if node.page is not None and node.num_users == 0 and not node.children:
            self.candidates.offer(node, node.weight)

    def _drop(self, node: PrefixPage) -> None:
        assert node.page is not None
        assert node.parent is not None
        assert node.num_users == 0
        assert not node.children
        self.candidates.withdraw(node)
        self._pool.free([node.page], PREFIX_OWNER)
        self.num_idle_pages -= 1
        self._count(node.scope, -1)
        del node.parent.children[node.tokens]
        if node.parent.page is None and not node.parent.children:
            del self._roots[node.scope]
        self._offer(node.parent)

    def _count(self, scope: Scope, change: int) -> None:
        digest = scope[1]
        self._num_pages_of[digest] += change
        if self._num_pages_of[digest] == 0:
            del self._num_pages_of[digest]
        if digest is None:
            return
        if digest not in self._parts_of:
            self._residency.change_prefix_pages(digest, change)
        elif digest not in self._num_pages_of:
            del self._parts_of[digest]


def _below(node: PrefixPage) -> Iterator[PrefixPage]:
    """All pages below a node, each after those before it."""
    stack = list(node.children.values())
    while stack:
        node = stack.pop()
        yield node
        stack += node.children.values()
