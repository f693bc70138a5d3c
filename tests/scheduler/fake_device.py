"""A device of plain Python lists, which remembers what was written to each page.

Owns: pages, table rows and slots, and the tokens that a step gives. A step that reads KV of other
tokens, of another adapter or another tenant, or an adapter whose copy is not complete, fails.
Does not know: the scheduler.

A token is a function of the request, its adapter and every token before it, as read back from the
pages: so what a request must produce is known without any scheduler (`expected_tokens`).
"""

from zlib import crc32

from motet.core.messages import AddRequest
from motet.memory.residency import Placement
from motet.scheduler.sequence import Batch, Sequence

VOCAB_SIZE = 97


def next_token(request_id: str, digest: str | None, tokens: list[int]) -> int:
    return crc32(repr((request_id, digest, tokens)).encode()) % VOCAB_SIZE


def expected_tokens(request: AddRequest) -> tuple[list[int], str]:
    """What a request generates, and why it ends."""
    output: list[int] = []
    while True:
        tokens = request.prompt_token_ids + output
        output.append(next_token(request.request_id, request.digest, tokens))
        if output[-1] in request.sampling.stop_token_ids:
            return output, "stop"
        if len(output) == request.sampling.max_tokens:
            return output, "length"


def _context(seq: Sequence, position: int) -> int:
    """Stands for all that a token's KV depends on beside its adapter: the tokens before it."""
    return crc32(repr(seq.token_ids(0, position + 1)).encode())


class FakeDevice:
    """Pages of `page_size` entries, table rows and slots."""

    def __init__(self, num_pages: int, page_size: int, num_rows: int) -> None:
        self._page_size = page_size
        self._pages: list[list[object]] = [[None] * page_size for _ in range(num_pages)]
        self._rows: list[object] = [None] * num_rows
        self._slots: list[Placement | None] = [None] * num_pages

    def begin_copy(self, placement: Placement) -> None:
        """From now on what is at the placement is neither the old nor the new."""
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

    def run(self, batch: Batch, slots: dict[str, int]) -> list[int]:
        """Write the KV of all new tokens, then read all contexts, as the layers of a model do.

        Args:
            batch: what to compute.
            slots: slot of each adapter of the batch, by digest.

        Returns:
            The tokens of the chunks that sample, in order.
        """
        for chunk in batch.chunks:
            seq = chunk.sequence
            new_tokens = seq.token_ids(chunk.start, chunk.end)
            assert len(new_tokens) == chunk.num_new_tokens
            for position, token in enumerate(new_tokens, start=chunk.start):
                entry = (seq.scope, position, _context(seq, position), token)
                self._page(seq, position)[position % self._page_size] = entry
        tokens = []
        for chunk in batch.chunks:
            seq = chunk.sequence
            if seq.digest is not None:
                self._read_adapter(slots[seq.digest], seq.digest)
            context = self._read_context(seq, chunk.end)
            if chunk.samples:
                tokens.append(next_token(seq.request_id, seq.digest, context))
        return tokens

    def _page(self, seq: Sequence, position: int) -> list[object]:
        return self._pages[seq.pages[position // self._page_size]]

    def _read_context(self, seq: Sequence, end: int) -> list[int]:
        tokens = []
        for position in range(end):
            entry = self._page(seq, position)[position % self._page_size]
            assert isinstance(entry, tuple), f"{seq.request_id}: nothing at position {position}"
            *content, token = entry
            expected = [seq.scope, position, _context(seq, position)]
            assert content == expected, f"{seq.request_id} reads {content}, not {expected}"
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
