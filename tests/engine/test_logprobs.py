"""Log probabilities, ranks and likeliest tokens of given logits, against a plain sort."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.core.messages import TokenLogprobs
from motet.core.sampling import SamplingParams
from motet.engine.logprobs import (
    BLOCK_ROWS,
    LEAST_LOGPROB,
    Asked,
    Likelihoods,
    PendingLogprobs,
    likelihoods,
    own_logits,
)
from motet.engine.sampler import SampledTokens
from motet.scheduler.policy import QueuedRequest
from motet.scheduler.sequence import Sequence

VOCAB_SIZE = 50


def sequence(num_logprobs: int | None) -> Sequence:
    sampling = SamplingParams(max_tokens=1, temperature=0, num_logprobs=num_logprobs)
    return Sequence("r", [1, 2], sampling, None, None, QueuedRequest(request_id="r"))


def told_of(logits: Tensor, token_ids: list[int], num_top: int) -> Likelihoods:
    return likelihoods(torch.split(logits, BLOCK_ROWS), torch.tensor(token_ids), num_top)


@given(
    num_rows=st.integers(1, 2 * BLOCK_ROWS + 1),
    num_top=st.integers(0, VOCAB_SIZE + 3),
    num_values=st.sampled_from([1, 2, 7, 10**6]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_any_rows_equal_a_plain_sort(
    num_rows: int, num_top: int, num_values: int, seed: int
) -> None:
    """With few distinct values most logits are equal, as they are in half precision."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_values, generator=generator) * 10
    choice = torch.randint(num_values, (num_rows, VOCAB_SIZE), generator=generator)
    logits = values[choice]
    token_ids = torch.randint(VOCAB_SIZE, (num_rows,), generator=generator).tolist()
    told = told_of(logits.clone(), token_ids, num_top)
    expected = logits.double().log_softmax(dim=1)
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, :num_top]
    top = expected.gather(1, order)
    torch.testing.assert_close(told.top_logprobs.double(), top, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(expected.gather(1, told.top_ids), top, rtol=0, atol=0)
    assert torch.equal(told.top_ids[:, :1], order[:, :1])
    is_equal = top[:, 1:] == top[:, :-1]
    assert (told.top_ids.diff(dim=1)[is_equal] > 0).all()
    for row, token in enumerate(token_ids):
        assert told.logprobs[row] == pytest.approx(float(expected[row, token]), abs=1e-4)
        assert told.ranks[row] == 1 + int((logits[row] > logits[row, token]).sum())
        assert told.logprobs[row] <= 0


def test_the_first_of_the_likeliest_is_what_greedy_takes() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [3, 7, 40]] = 2.0
    told = told_of(logits, [7], 3)
    assert told.top_ids.tolist() == [[3, 7, 40]]
    assert told.ranks.tolist() == [1]
    for num_top in (1, 2):
        assert int(told_of(logits, [7], num_top).top_ids[0, 0]) == int(logits.argmax()) == 3


def test_what_has_no_probability_is_told_as_a_number() -> None:
    logits = torch.full((1, VOCAB_SIZE), -torch.inf)
    logits[0, 5] = 30.0
    logits[0, 6] = -3e38
    told = told_of(logits, [9], 3)
    assert told.logprobs.tolist() == [LEAST_LOGPROB]
    assert told.top_ids[:, :2].tolist() == [[5, 6]]
    assert told.top_logprobs.tolist() == [[0.0, LEAST_LOGPROB, LEAST_LOGPROB]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_marked_and_hurt_no_other(value: float) -> None:
    logits = torch.zeros(3, VOCAB_SIZE)
    logits[1, 4] = value
    told = told_of(logits, [0, 0, 0], 2)
    assert told.logprobs.isnan().tolist() == [False, True, False]


def test_each_gets_as_many_of_the_likeliest_as_it_asked_for() -> None:
    logits = torch.arange(float(VOCAB_SIZE)).repeat(4, 1)
    none, two, five = sequence(0), sequence(2), sequence(5)
    asked = [Asked(two, 1, 2), Asked(five, 2, 5), Asked(none, 1, 0)]
    token_ids = [49, 48, 0, 7]
    told = told_of(logits, token_ids, 5)
    waited = PendingLogprobs(asked, torch.tensor(token_ids), told).wait()
    assert list(waited) == [two, five, none]
    assert [[each.token_id for each in waited[seq]] for seq in waited] == [[49], [48, 0], [7]]
    assert [[each.rank for each in waited[seq]] for seq in waited] == [[1], [2, 50], [43]]
    assert waited[two][0].top_token_ids == [49, 48]
    assert waited[five][1].top_token_ids == [49, 48, 47, 46, 45]
    assert waited[none][0].top_token_ids == waited[none][0].top_logprobs == []


def test_what_is_kept_is_not_changed_by_what_sampling_does_to_the_logits() -> None:
    logits = torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    expected = logits.log_softmax(dim=1)
    sequences = [sequence(n) for n in (None, 3, None, 1)]
    own = own_logits(logits, [seq.schedule(2) for seq in sequences])
    assert own is not None
    logits.fill_(-torch.inf)
    sampled = SampledTokens(torch.tensor([9, 8, 7, 6]), torch.ones(4, dtype=torch.bool))
    waited: dict[Sequence, list[TokenLogprobs]] = own.of_sampled(sampled).wait()
    assert list(waited) == [sequences[1], sequences[3]]
    for row, token in ((1, 8), (3, 6)):
        (told,) = waited[sequences[row]]
        assert told.token_id == token
        assert told.logprob == pytest.approx(float(expected[row, token]), abs=1e-5)
        assert told.top_token_ids[0] == int(expected[row].argmax())
        assert math.isfinite(told.top_logprobs[0])


def test_nothing_is_kept_if_nobody_asks() -> None:
    chunks = [sequence(None).schedule(2) for _ in range(3)]
    assert own_logits(torch.zeros(3, VOCAB_SIZE), chunks) is None
