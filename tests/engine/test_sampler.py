"""The sampler against transformers' own warpers, and against exact probabilities."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from motet.core.sampling import SamplingParams
from motet.engine.sampler import SamplingRow, sample, uniforms

VOCAB_SIZE = 700  # more than the sampler's first guess at a nucleus


def row(position: int = 0, **params: object) -> SamplingRow:
    sampling = SamplingParams(max_tokens=1, **params)  # type: ignore[arg-type]
    return SamplingRow(
        0, sampling, position, prompt_token_ids=[1, 2, 2], output_token_ids=[2, 5, 5]
    )


def tokens_of(logits: Tensor, rows: list[SamplingRow]) -> list[int | None]:
    """Sample a row of logits by each of these; None where there is no token."""
    placed = [row._replace(logits_row=index) for index, row in enumerate(rows)]
    sampled = sample(logits, [row for row in placed if not row.params.is_plainly_greedy])
    assert sampled.token_ids.dtype == torch.int64
    assert sampled.token_ids.shape == sampled.is_usable.shape == (len(rows),)
    assert ((sampled.token_ids >= 0) & (sampled.token_ids < VOCAB_SIZE)).all()
    pairs = zip(sampled.token_ids.tolist(), sampled.is_usable.tolist(), strict=True)
    return [token if is_usable else None for token, is_usable in pairs]


def random_logits(num_rows: int = 1, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, VOCAB_SIZE, generator=generator) * scale


def draws(logits: Tensor, num_draws: int, **params: object) -> np.ndarray:
    """How often each token is drawn, over positions."""
    rows = [row(position, **params) for position in range(num_draws)]
    tokens = tokens_of(logits.expand(num_draws, -1).clone(), rows)
    return np.bincount([t for t in tokens if t is not None], minlength=VOCAB_SIZE)


def assert_follows(counts: np.ndarray, probabilities: Tensor) -> None:
    """A chi-square test at five standard deviations; what has no probability is never drawn."""
    expected = probabilities.double().numpy() * counts.sum()
    assert counts[expected == 0].sum() == 0
    order = np.argsort(-expected)
    likely = order[expected[order] >= 5]
    rest = [i for i in order if expected[i] < 5]
    observed = np.append(counts[likely], counts[rest].sum())
    wanted = np.append(expected[likely], expected[rest].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    degrees = max(len(wanted) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_greedy_takes_the_largest_and_the_lowest_of_equals() -> None:
    logits = random_logits(3)
    logits[1, [40, 400]] = 50
    expected = [int(logits[0].argmax()), 40, int(logits[2].argmax())]
    assert tokens_of(logits, [row(temperature=0)] * 3) == expected


def test_no_rows() -> None:
    assert tokens_of(torch.empty(0, VOCAB_SIZE), []) == []


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        ({"temperature": 1.0}, []),
        ({"temperature": 0.5}, [TemperatureLogitsWarper(0.5)]),
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        (
            {"temperature": 1.4, "top_k": 50, "top_p": 0.8, "min_p": 0.02},
            [
                TemperatureLogitsWarper(1.4),
                TopKLogitsWarper(50),
                TopPLogitsWarper(0.8),
                MinPLogitsWarper(0.02),
            ],
        ),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "wide-top_p", "min_p", "all"],
)
def test_draws_follow_the_distribution_of_transformers(
    params: dict[str, float], warpers: list[object]
) -> None:
    logits = random_logits(seed=3)
    warped = logits.clone()
    for warper in warpers:
        warped = warper(torch.zeros(1, 1, dtype=torch.long), warped)  # type: ignore[operator]
    assert_follows(draws(logits, 4000, **params), warped.softmax(dim=1)[0])


def test_a_flat_distribution_has_a_nucleus_beyond_the_first_guess() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    counts = draws(logits, 6000, top_p=0.9)
    assert (counts > 0).sum() == pytest.approx(0.9 * VOCAB_SIZE, abs=1.5)


def test_a_tiny_top_p_keeps_one_token() -> None:
    logits = random_logits(seed=5)
    assert draws(logits, 50, top_p=1e-9)[int(logits.argmax())] == 50


@pytest.mark.parametrize("temperature", [1e-50, 1e-6, 1e-4])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = random_logits(seed=6)
    assert draws(logits, 50, temperature=temperature)[int(logits.argmax())] == 50


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = random_logits(seed=7)
    processor = RepetitionPenaltyLogitsProcessor(1.7)
    expected = processor(torch.tensor([[1, 2, 2, 2, 5, 5]]), logits.clone())
    tokens_of(logits, [row(temperature=0, repetition_penalty=1.7)])
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_presence_and_frequency_penalties_count_the_output_only() -> None:
    logits = random_logits(seed=8)
    expected = logits.clone()
    expected[0, 2] -= 0.5 + 1 * 0.25
    expected[0, 5] -= 0.5 + 2 * 0.25
    tokens_of(logits, [row(temperature=0, presence_penalty=0.5, frequency_penalty=0.25)])
    torch.testing.assert_close(logits, expected)


def test_a_row_draws_alike_in_any_company() -> None:
    logits = random_logits(6, seed=9)
    rows = [
        row(3, seed=1),
        row(4, seed=2, top_p=0.7),
        row(5, seed=3, top_k=9),
        row(6, seed=4, temperature=0),
        row(7, seed=5, top_p=0.99, min_p=0.05, repetition_penalty=1.3),
        row(8, seed=6, temperature=2.0),
    ]
    alone = [tokens_of(logits[i : i + 1].clone(), [rows[i]])[0] for i in range(6)]
    assert tokens_of(logits.clone(), rows) == alone
    backwards = tokens_of(logits.flip(0).clone(), rows[::-1])
    assert backwards[::-1] == alone


def test_rows_that_are_not_finite_are_none_and_hurt_no_other() -> None:
    logits = random_logits(5, seed=10)
    logits[1, 17] = torch.nan
    logits[2] = -torch.inf
    logits[3, 3] = torch.inf
    tokens = tokens_of(logits.clone(), [row(temperature=0), *[row()] * 3, row(temperature=0)])
    assert tokens == [int(logits[0].argmax()), None, None, None, int(logits[4].argmax())]


def test_masked_tokens_are_never_drawn() -> None:
    logits = random_logits(seed=11)
    logits[0, 10:] = -torch.inf
    assert draws(logits, 500)[10:].sum() == 0


def test_uniform_is_uniform_and_unrelated_between_seeds_and_positions() -> None:
    by_position = uniforms([1] * 4000, range(4000))
    by_seed = uniforms(range(4000), [1] * 4000)
    for values in (by_position, by_seed):
        assert values.min() >= 0
        assert values.max() < 1
        histogram = np.histogram(values, bins=20, range=(0, 1))[0]
        assert ((histogram - 200) ** 2 / 200).sum() < 19 + 5 * np.sqrt(38)
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.08
    assert abs(np.corrcoef(by_position, by_seed)[0, 1]) < 0.08


def test_uniform_is_output_number_position_of_splitmix64() -> None:
    """Against the generator as its authors wrote it, with its state mixed first."""
    mask = (1 << 64) - 1

    def mix(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    for seed in (0, 1, -5, 2**63, 2**64 - 1, 2**70 + 3):
        state = mix(seed & mask)
        for position in range(5):
            state = (state + 0x9E3779B97F4A7C15) & mask
            assert uniforms([seed], [position]) == [(mix(state) >> 24) / 2**40]


def test_bias_is_added_before_all_else() -> None:
    logits = random_logits(3, seed=12)
    expected = logits.clone()
    expected[0, 4] += 3.5
    expected[0, 699] -= 100
    expected[2, 4] += 100
    rows = [
        row(temperature=0, logit_bias=((4, 3.5), (699, -100.0))),
        row(temperature=0),
        row(temperature=0, logit_bias=((4, 100.0),)),
    ]
    assert tokens_of(logits, rows)[2] == 4
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_a_biased_token_is_penalised_for_what_it_has_become() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    tokens_of(logits, [row(temperature=0, logit_bias=((5, 8.0),), repetition_penalty=2.0)])
    assert logits[0, 5] == 4


def test_a_large_bias_decides_a_draw() -> None:
    logits = random_logits(seed=13)
    assert draws(logits, 200, logit_bias=((17, 100.0),))[17] == 200
    likeliest = int(logits.argmax())
    assert draws(logits, 500, temperature=0.7, logit_bias=((likeliest, -100.0),))[likeliest] == 0


def test_ids_beyond_the_vocabulary_do_nothing() -> None:
    logits = random_logits(seed=14)
    expected = logits.clone()
    ids = (VOCAB_SIZE, 2**31, -1)
    tokens_of(
        logits,
        [
            row(
                position=3,
                temperature=0,
                min_tokens=5,
                stop_token_ids=ids,
                logit_bias=tuple((token, 9.0) for token in ids),
            )
        ],
    )
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stop_tokens_are_impossible_before_min_tokens(temperature: float) -> None:
    """The prompt has three tokens, so that at position 3 + n the token n + 1 is drawn."""
    logits = torch.zeros(6, VOCAB_SIZE)
    logits[:, [8, 9]] = 50.0
    logits[:, 10] = 20.0
    rows = [
        row(3 + n, temperature=temperature, min_tokens=4, stop_token_ids=(8, 9)) for n in range(6)
    ]
    tokens = tokens_of(logits, rows)
    assert tokens[:4] == [10] * 4
    assert {*tokens[4:]} <= {8, 9}


def test_min_tokens_hold_against_a_bias() -> None:
    logits = random_logits(seed=15)
    params = {"temperature": 0, "min_tokens": 1, "stop_token_ids": (3,)}
    assert tokens_of(logits, [row(3, logit_bias=((3, 100.0),), **params)]) != [3]


def test_greedy_is_plain_only_where_the_logits_stay_as_they_are() -> None:
    assert SamplingParams(max_tokens=1, temperature=0, num_logprobs=3).is_plainly_greedy
    for params in (
        {"logit_bias": ((1, 1.0),)},
        {"min_tokens": 1},
        {"frequency_penalty": 0.1},
        {"temperature": 1.0},
    ):
        sampling = SamplingParams(**{"max_tokens": 1, "temperature": 0, **params})  # type: ignore[arg-type]
        assert not sampling.is_plainly_greedy
