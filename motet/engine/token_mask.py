"""The tokens that grammars allow next, for the rows of a step.

Owns: computing the masks of a step, and taking what they forbid out of logits.
Does not know: how a grammar is followed (`guide.py`), nor sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par
from torch import Tensor

from motet.engine.grammar import failure_of, new_masks
from motet.engine.guide import GrammarGuide
from motet.engine.transfer import upload
from motet.scheduler.sequence import ScheduledChunk

_BITS = tuple(1 << bit for bit in range(8))


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
        bits = upload(_BITS, torch.uint8, logits.device)
        is_allowed = (self.allowed.unsqueeze(2) & bits).view(len(self.rows), -1)
        forbidden = is_allowed[:, : logits.shape[1]] == 0
        masked = logits.index_select(0, self.rows).masked_fill_(forbidden, -torch.inf)
        logits.index_copy_(0, self.rows, masked)


class TokenMasker:
    """Computes masks, those of one step beside each other.

    Args:
        device: where the logits are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._executor: LLExecutor | None = None  # with threads, so only once there is a use

    def masks(self, chunks: Sequence[ScheduledChunk]) -> TokenMask | None:
        """The mask of a step's rows; None if none has a grammar.

        A guide that fails here has its row left free, and its sequence ends at the commit.

        Args:
            chunks: those that a token follows from; a row of logits for each.
        """
        guides = _guides(chunks)
        if not guides:
            return None
        if self._executor is None:
            self._executor = LLExecutor(torch.get_num_threads())
        masks = new_masks(len(guides), max(guide.vocab_size for guide in guides.values()))
        matchers = [(guide.matcher, index) for index, guide in enumerate(guides.values())]
        fill_next_token_bitmask_par(self._executor, matchers, masks)
        for guide, mask in zip(guides.values(), masks, strict=True):
            if guide.matcher.is_error():
                guide.fail(failure_of(guide.matcher))
            elif not mask.any():
                guide.fail("no token of the vocabulary continues it")
        kept = [index for index, guide in enumerate(guides.values()) if guide.error is None]
        if not kept:
            return None
        rows = [row for row, guide in guides.items() if guide.error is None]
        return TokenMask(
            upload(rows, torch.int64, self._device),
            upload(masks[kept].view(np.uint8), torch.uint8, self._device),
        )


def _guides(chunks: Sequence[ScheduledChunk]) -> dict[int, GrammarGuide]:
    """The guides of the rows that have one."""
    guides = {}
    for row, chunk in enumerate(chunks):
        guide = chunk.sequence.guide
        if guide is not None:
            assert isinstance(guide, GrammarGuide), "the engine gives sequences no others"
            guides[row] = guide
    return guides
