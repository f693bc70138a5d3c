"""The tokens that grammars allow next, for the rows of a step.

Owns: the masks of a step, and taking what they forbid out of logits.
Does not know: how a grammar is followed (`guide.py`), nor sampling.

Masks are computed one after another: llguidance's threads were slower on two cores, where copies
of one matcher wait for the lexer that they share, and no faster for different grammars.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.engine.grammar import new_masks
from motet.engine.guide import GrammarGuide
from motet.engine.transfer import upload
from motet.scheduler.sequence import ScheduledChunk

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# What each byte of a mask adds to the logits of its eight tokens: float32 [256, 8].
_BIASES = np.where(_BITS == 1, np.float32(0), np.float32(-np.inf))


@dataclass(frozen=True, slots=True)
class TokenMask:
    """What some rows of a step may choose from.

    Attributes:
        rows: int64 [num_masked]. Which rows of logits.
        allowed: uint8 [num_masked, num_bytes]. A bit for each token, the lowest bit first.
    """

    rows: Tensor
    allowed: Tensor

    def apply(self, logits: Tensor) -> None:
        """Set what is not allowed to -inf, in place: logits [num_rows, vocab_size]."""
        # Added, for a masked fill is several times slower on a CPU.
        biases = upload(_BIASES, logits.dtype, logits.device)[self.allowed.long()].flatten(1)
        logits.index_add_(0, self.rows, biases[:, : logits.shape[1]])


def token_mask(chunks: Sequence[ScheduledChunk], device: torch.device) -> TokenMask | None:
    """The mask of a step's rows; None if none has a grammar.

    A row whose guide fails here is left free: its sequence ends when the step is committed.

    Args:
        chunks: those that a token follows from; a row of logits for each.
        device: where the logits are.
    """
    guides = _guides(chunks)
    if not guides:
        return None
    masks = new_masks(len(guides), max(guide.vocab_size for guide in guides.values()))
    kept = [
        (row, index)
        for index, (row, guide) in enumerate(guides.items())
        if guide.fill(masks, index)
    ]
    rows = [row for row, _ in kept]
    allowed = masks[[index for _, index in kept]].view(np.uint8)
    return TokenMask(upload(rows, torch.int64, device), upload(allowed, torch.uint8, device))


def _guides(chunks: Sequence[ScheduledChunk]) -> dict[int, GrammarGuide]:
    """The guides of the rows that have one."""
    guides = {}
    for row, chunk in enumerate(chunks):
        guide = chunk.sequence.guide
        if guide is not None:
            assert isinstance(guide, GrammarGuide), "the engine gives sequences no others"
            guides[row] = guide
    return guides
