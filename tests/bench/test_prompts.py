"""Prompts are told by their streams alone, and are about as long as they should be."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.prompts import PromptWriter
from motet.bench.words import WORDS
from motet.bench.workload import WorkRequest
from motet.models.default_model import default_model_dir

TOKEN_IDS = range(1000, 50_000, 7)


def as_words(writer: PromptWriter, request: WorkRequest) -> list[str]:
    return writer.text(request).split(" ") if request.num_prompt_tokens else []


def as_ids(writer: PromptWriter, request: WorkRequest) -> list[int]:
    return writer.token_ids(request, TOKEN_IDS)


FORMS: list[Callable[[PromptWriter, WorkRequest], list]] = [as_words, as_ids]


def request_of(
    num_tokens: int, stream: int, prefix: str | None = None, num_prefix_tokens: int = 0
) -> WorkRequest:
    """All else is drawn, since a prompt does not depend on it."""
    return WorkRequest(
        index=random.randrange(100),
        arrival_s=random.random(),
        adapter=random.choice([None, "a", "b"]),
        num_prompt_tokens=num_tokens,
        num_output_tokens=random.randrange(1, 9),
        stream=stream,
        prefix=prefix,
        num_prefix_tokens=num_prefix_tokens,
    )


@pytest.mark.parametrize("form", FORMS)
@given(
    seed=st.integers(0, 2**32),
    stream=st.integers(0, 2**63),
    short=st.integers(0, 300),
    more=st.integers(0, 300),
)
def test_a_longer_prompt_of_a_stream_begins_with_the_shorter(
    form: Callable[[PromptWriter, WorkRequest], list],
    seed: int,
    stream: int,
    short: int,
    more: int,
) -> None:
    longer = form(PromptWriter(seed), request_of(short + more, stream))
    assert len(longer) == short + more
    assert form(PromptWriter(seed), request_of(short, stream)) == longer[:short]


@pytest.mark.parametrize("form", FORMS)
def test_requests_of_one_prefix_begin_alike_and_go_on_differently(
    form: Callable[[PromptWriter, WorkRequest], list],
) -> None:
    writer = PromptWriter(4)
    one = form(writer, request_of(90, 1, "system", 50))
    other = form(writer, request_of(70, 2, "system", 50))
    assert one[:50] == other[:50]
    assert len(one) == 90
    assert one[50:70] != other[50:]
    assert form(writer, request_of(90, 1, "another", 50))[:50] != one[:50]
    assert form(writer, request_of(40, 1)) == one[50:]


@pytest.mark.parametrize("form", FORMS)
def test_other_streams_and_other_seeds_have_nothing_in_common(
    form: Callable[[PromptWriter, WorkRequest], list],
) -> None:
    prompts = [
        form(PromptWriter(seed), request_of(8, stream)) for seed in (1, 11) for stream in (1, 11)
    ]
    prompts.append(form(PromptWriter(1), request_of(8, 5, "1", 8)))
    assert len({tuple(prompt) for prompt in prompts}) == 5


def test_the_words_and_tokens_are_all_used_about_as_often() -> None:
    request = request_of(100_000, 3)
    words = as_words(PromptWriter(0), request)
    assert set(words) == set(WORDS)
    assert len(set(WORDS)) == 256
    assert max(map(words.count, WORDS)) < 2 * 100_000 / 256
    ids = as_ids(PromptWriter(0), request)
    assert set(ids) <= set(TOKEN_IDS)
    assert len(set(ids)) > 0.99 * len(TOKEN_IDS)


def test_known_prompts() -> None:
    """What a seed stands for must not change: results are compared across versions."""
    writer = PromptWriter(42)
    assert writer.text(request_of(4, 0)) == "student need number wall"
    assert writer.token_ids(request_of(3, 0), range(32_000)) == [27092, 26439, 23976]


def test_s_loras_own_prompt() -> None:
    assert PromptWriter(1).repeated(request_of(3, 7)) == "Hello Hello Hello "


@pytest.mark.slow
def test_a_word_is_a_token_of_the_default_model() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_model_dir())
    text = PromptWriter(random.randrange(1000)).text(request_of(2000, 0))
    assert len(tokenizer.encode(text, add_special_tokens=False)) == 2000
