"""Masks on logits: what is allowed stays as it is, all else cannot be chosen."""

import numpy as np
import pytest
import torch

from motet.engine.sampler import sample
from motet.engine.token_mask import TokenMask


def packed(is_allowed: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.packbits(is_allowed, axis=1, bitorder="little"))


@pytest.mark.parametrize("vocab_size", [8, 131, 1000])
@pytest.mark.parametrize("num_padding", [0, 40])
def test_only_what_is_allowed_stays(vocab_size: int, num_padding: int) -> None:
    """The mask may be wider than the logits."""
    rng = np.random.default_rng(vocab_size)
    logits = torch.from_numpy(rng.normal(size=(5, vocab_size)).astype(np.float32))
    is_allowed = rng.random((3, vocab_size + num_padding)) < 0.3
    expected = logits.clone()
    rows = [4, 0, 2]
    for row, allowed in zip(rows, is_allowed, strict=True):
        forbidden = torch.from_numpy(~allowed[:vocab_size])
        expected[row][forbidden] = -torch.inf
    TokenMask(torch.tensor(rows), packed(is_allowed)).apply(logits)
    assert torch.equal(logits, expected)


def test_no_rows_change_nothing() -> None:
    logits = torch.randn(3, 20)
    before = logits.clone()
    TokenMask(torch.zeros(0, dtype=torch.int64), torch.zeros((0, 4), dtype=torch.uint8)).apply(
        logits
    )
    assert torch.equal(logits, before)


def test_a_masked_row_is_sampled_from_what_is_allowed() -> None:
    logits = torch.zeros(2, 64)
    logits[:, 5] = 9.0
    is_allowed = np.zeros((1, 64), dtype=bool)
    is_allowed[0, 17] = True
    sampled = sample(logits, [], TokenMask(torch.tensor([1]), packed(is_allowed)))
    assert sampled.token_ids.tolist() == [5, 17]
    assert sampled.is_usable.all()
