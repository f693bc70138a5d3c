"""A device of plain Python lists, which remembers what was written to each page.

Owns: pages, table rows and slots, and the tokens that a step gives. A step that reads KV of other
tokens, of another adapter or another tenant, or an adapter whose copy is not complete, fails.
Does not know: the scheduler.

It does what it is given in order, and as late as it may: a step runs when its tokens are waited
for, or when a copy begins that comes after it. What the host knows later is no help to it.

A token is a function of the request, its adapter and every token before it, as read back from the
pages: so what a request must produce is known without any scheduler (`expected_tokens`).
"""

from collections import deque
from dataclasses import dataclass
from zlib import crc32

from motet.core.messages import AddRequest
from motet.memory.prefix_cache import Scope
from motet.memory.residency import Placement
from motet.scheduler.sequence import Batch, ScheduledChunk, Sequence

VOCAB_SIZE = 97


def next_token(request_id: str, digest: str | None, tokens: list[int]) -> int:
    return crc32(repr((request_id, digest, tokens)).encode()) % VOCAB_SIZE


def expected_tokens(request: AddRequest) -> tuple[list[int], str]:
    """What a request generates, and why it ends."""
    output: list[int] = []
    if request.sampling.max_tokens == 0:
        return output, "length"
    while True:
        tokens = request.prompt_token_ids + output
        output.append(next_token(request.request_id, request.digest, tokens))
        if output[-1] in request.sampling.stop_token_ids:
            return output, "stop"
        if len(output) == request.sampling.max_tokens:
            return output, "length"


def _context(tokens: list[int], position: int) -> int:
    """Stands for all that a token's KV depends on beside its adapter: the tokens before it."""
    return crc32(repr(tokens[: position + 1]).encode())


@dataclass
class _Work:
    """A chunk as it was launched: what the host knew of it then."""

    chunk: ScheduledChunk
    request_id: str
    scope: Scope
    row: int
    slots: dict[str, int]  # of all adapters
    pages: list[int]
    tokens: list[int]  # all up to the chunk's end; where one is awaited, all before it

    @property
    def digest(self) -> str | None:
        return self.scope[1]


@dataclass
class Launched:
    """A step that runs at some time. Its tokens are there once it has."""

    work: list[_Work]
    tokens: list[int] | None = None


class FakeDevice:
    """Pages of `page_size` entries, table rows and slots."""

    def __init__(self, num_pages: int, page_size: int, num_rows: int) -> None:
        self._page_size = page_size
        self._pages: list[list[object]] = [[None] * page_size for _ in range(num_pages)]
        self._rows: list[object] = [None] * num_rows
        self._slots: list[Placement | None] = [None] * num_pages
        self._queue: deque[Launched] = deque()
        self._last_tokens: dict[int, int] = {}  # by row of the page table

    def begin_copy(self, placement: Placement) -> None:
        """From now on what is at the placement is neither the old nor the new."""
        self._run_all()  # a copy waits for the steps that were launched before it
        self._write(placement, "half a copy")
        self._slots[placement.slot] = None

    def end_copy(self, placement: Placement) -> None:
        self._write(placement, placement.digest)
        self._slots[placement.slot] = placement

    def _write(self, placement: Placement, content: str) -> None:
        for index, page in enumerate(placement.pages):
            self._pages[page] = [(content, index)] * self._page_size
        for index in range(placement.num_rows):
            self._rows[placement.first_row + index] = (content, index)

    def launch(self, batch: Batch) -> Launched:
        """Take what the host knows of a batch."""
        launched = Launched([_work(chunk) for chunk in batch.chunks])
        self._queue.append(launched)
        return launched

    def wait(self, launched: Launched) -> list[int]:
        """The tokens of the chunks that sample, in order."""
        while launched.tokens is None:
            self._run_next()
        return launched.tokens

    def _run_all(self) -> None:
        while self._queue:
            self._run_next()

    def _run_next(self) -> None:
        """Write the KV of all new tokens, then read all contexts, as the layers of a model do."""
        launched = self._queue.popleft()
        for work in launched.work:
            if work.chunk.awaits_token:
                work.tokens.append(self._last_tokens[work.row])
            assert len(work.tokens) == work.chunk.end
            for position in range(work.chunk.start, work.chunk.end):
                context = _context(work.tokens, position)
                entry = (work.scope, position, context, work.tokens[position])
                self._page(work, position)[position % self._page_size] = entry
        launched.tokens = []
        for work in launched.work:
            for digest, slot in work.slots.items():
                self._read_adapter(slot, digest)
            context = self._read_context(work)
            if work.chunk.samples:
                token = next_token(work.request_id, work.digest, context)
                self._last_tokens[work.row] = token
                launched.tokens.append(token)

    def _page(self, work: _Work, position: int) -> list[object]:
        return self._pages[work.pages[position // self._page_size]]

    def _read_context(self, work: _Work) -> list[int]:
        tokens = []
        for position in range(work.chunk.end):
            entry = self._page(work, position)[position % self._page_size]
            assert isinstance(entry, tuple), f"{work.request_id}: nothing at position {position}"
            *content, token = entry
            expected = [work.scope, position, _context(work.tokens, position)]
            assert content == expected, f"{work.request_id} reads {content}, not {expected}"
            tokens.append(token)
        return tokens

    def _read_adapter(self, slot: int, digest: str) -> None:
        placement = self._slots[slot]
        assert placement is not None, f"slot {slot} holds half a copy"
        assert placement.digest == digest
        for index in range(placement.num_rows):
            assert self._rows[placement.first_row + index] == (digest, index)
        for index, page in enumerate(placement.pages):
            assert self._pages[page] == [(digest, index)] * self._page_size


def _work(chunk: ScheduledChunk) -> _Work:
    seq = chunk.sequence
    known = seq.token_ids(0, chunk.end)
    assert len(known) == chunk.end - chunk.awaits_token
    assert not (chunk.awaits_token and seq.sampling.has_penalties)
    assert chunk.num_new_tokens == 1 or not chunk.awaits_token
    assert seq.row is not None
    return _Work(chunk, seq.request_id, seq.scope, seq.row, _slots(seq), list(seq.pages), known)


def _slots(seq: Sequence) -> dict[str, int]:
    """Where the host says that each adapter of a running sequence is."""
    if seq.members is None:
        assert seq.member_slots is None
        assert (seq.slot is None) == (seq.digest is None)
        return {} if seq.slot is None or seq.digest is None else {seq.digest: seq.slot}
    placed = seq.member_slots
    assert placed is not None
    assert [*placed.fixed] == sorted(placed.fixed)
    assert seq.slot == (placed.fixed[0][0] if placed.fixed else None)
    weights = sorted(weight for _, weight in placed.fixed)
    assert weights == sorted(part.weight for part in seq.members.fixed)
    slots = {}
    for slot, weight in placed.fixed:  # the weights of a test's composition are all different
        for part in seq.members.fixed:
            if part.weight == weight and part.digest not in slots:
                slots[part.digest] = slot
                break
    if seq.members.router is not None:
        assert placed.router is not None
        slots[seq.members.router.digest] = placed.router
        slots |= zip(seq.members.router.experts, placed.experts, strict=True)
    assert slots.keys() == {*seq.adapters}
    return slots
