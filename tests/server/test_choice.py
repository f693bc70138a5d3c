"""Tokens into text: what is told of tokens agrees with the text, whole and streamed alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.core.messages import TokenOutput
from motet.server.choice import Choice, Delta, best_choices, token_ids_of
from motet.server.parsing import parse
from motet.server.protocol import CompletionRequest
from motet.server.tokenizer import TextTokenizer
from tests.server.fake_engine import scripted_logprobs
from tests.server.tiny_model import END_OF_TURN


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


def request(**params: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"model": "m", "prompt": "x", "logprobs": 1, **params})


def outputs(
    token_ids: Sequence[int], sizes: Sequence[int], finish_reason: str = "length"
) -> list[TokenOutput]:
    """The tokens in outputs of these sizes, all that are left in the last."""
    cut, parts = 0, []
    for size in sizes:
        parts.append(token_ids[cut : cut + size])
        cut += size
    parts.append(token_ids[cut:])
    done = []
    for number, part in enumerate(parts):
        logprobs = [
            scripted_logprobs(each, place, 1, vocab_size=259) for place, each in enumerate(part)
        ]
        reason = finish_reason if number == len(parts) - 1 else None
        done.append(TokenOutput("r", list(part), reason, 0, logprobs))
    return done


def deltas_of(
    tokenizer: TextTokenizer,
    made: Sequence[TokenOutput],
    stop_ids: Sequence[int] = (),
    **params: Any,
) -> list[Delta]:
    choice = Choice(0, 0, tokenizer, request(**params), stop_ids)
    deltas = []
    for output in made:
        deltas.append(choice.push(output))
        if choice.is_finished:
            break
    return deltas


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


sizes = st.lists(st.integers(0, 4), max_size=8)
stops = st.lists(st.text("abü", min_size=1, max_size=3), max_size=3)


@given(st.text("abü€", max_size=12), sizes, stops, st.booleans(), st.integers(0, 6))
def test_tokens_are_those_of_the_text_however_they_come(
    tokenizer: TextTokenizer,
    text: str,
    sizes: list[int],
    stops: list[str],
    includes_stop: bool,
    min_tokens: int,
) -> None:
    ids = tokenizer.encode(text)
    params = {
        "stop": stops,
        "include_stop_str_in_output": includes_stop,
        "min_tokens": min_tokens,
    }
    deltas = deltas_of(tokenizer, outputs(ids, sizes), **params)
    shown = text_of(deltas)
    # Each character is wholly in the answer or not at all, and so are the tokens of it.
    assert text.startswith(shown)
    assert token_ids_of(deltas) == tokenizer.encode(shown)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert [each.offset for each in tokens] == [
        place for place, char in enumerate(shown) for _ in char.encode()
    ]
    assert all(each.logprobs and each.logprobs.token_id == each.token_id for each in tokens)
    # In one output it is the same.
    [whole] = deltas_of(tokenizer, outputs(ids, []), **params)
    assert (whole.text, token_ids_of([whole])) == (shown, token_ids_of(deltas))
    assert whole.finish_reason == deltas[-1].finish_reason


@given(st.lists(st.integers(0, 258), max_size=20), sizes)
def test_without_stop_strings_every_token_is_told(
    tokenizer: TextTokenizer, token_ids: list[int], sizes: list[int]
) -> None:
    """Broken characters and special tokens too."""
    deltas = deltas_of(tokenizer, outputs(token_ids, sizes))
    assert token_ids_of(deltas) == token_ids
    assert text_of(deltas) == tokenizer.decode(token_ids)


@given(st.text("abü€", max_size=12), sizes, stops)
def test_a_token_never_waits_for_longer_than_its_text(
    tokenizer: TextTokenizer, text: str, sizes: list[int], stops: list[str]
) -> None:
    num_shown_chars = 0
    offsets: list[int] = []
    for delta in deltas_of(tokenizer, outputs(tokenizer.encode(text), sizes), stop=stops):
        num_shown_chars += len(delta.text)
        offsets += [token.offset for token in delta.tokens]
        assert sorted(set(offsets)) == list(range(num_shown_chars))


@pytest.mark.parametrize(
    ("includes_stop", "skips", "text"),
    [(False, True, "ab"), (True, True, "ab"), (True, False, f"ab{END_OF_TURN}")],
)
def test_the_token_that_ended_the_answer_is_told_but_not_shown(
    tokenizer: TextTokenizer, includes_stop: bool, skips: bool, text: str
) -> None:
    ids = tokenizer.encode(f"ab{END_OF_TURN}")
    deltas = deltas_of(
        tokenizer,
        outputs(ids, [1], "stop"),
        ids[-1:],
        include_stop_str_in_output=includes_stop,
        skip_special_tokens=skips,
    )
    assert text_of(deltas) == text
    assert token_ids_of(deltas) == ids


def test_nothing_is_told_of_tokens_that_nobody_asked_for(tokenizer: TextTokenizer) -> None:
    made = [TokenOutput("r", [each]) for each in tokenizer.encode("€")]
    choice = Choice(0, 0, tokenizer, request(logprobs=None), ())
    deltas = [choice.push(each) for each in made]
    assert [delta.is_empty for delta in deltas] == [True, True, False]
    assert [delta.is_first for delta in deltas] == [False, False, True]
    assert token_ids_of(deltas) == []


def test_what_is_known_of_the_prompt_comes_with_the_first_that_is_said(
    tokenizer: TextTokenizer,
) -> None:
    of_prompt = [scripted_logprobs(5, 1, 1, vocab_size=259)]
    first, *rest = tokenizer.encode("€a")
    choice = Choice(0, 0, tokenizer, request(logprobs=None, prompt_logprobs=1), ())
    deltas = [choice.push(TokenOutput("r", [first], prompt_logprobs=of_prompt))]
    deltas += [choice.push(TokenOutput("r", [each])) for each in rest]
    assert [delta.prompt_logprobs for delta in deltas] == [None, None, of_prompt, None]


def test_the_best_are_the_likeliest_per_token(tokenizer: TextTokenizer) -> None:
    def choice(index: int, prompt: int, *ranks: int) -> Choice:
        made = Choice(index, prompt, tokenizer, request(), ())
        for rank in ranks:
            made.push(
                TokenOutput("r", [9], None, 0, [scripted_logprobs(9, rank - 1, 0, vocab_size=259)])
            )
        return made

    # More tokens are less likely together, and no worse for it.
    first = [choice(0, 0, 3), choice(1, 0, 2, 1, 1), choice(2, 0, 2, 2), choice(3, 0, 3, 3)]
    second = [choice(4, 1), choice(5, 1, 1), choice(6, 1, 1), choice(7, 1, 1)]
    assert best_choices(first + second, 2) == [1, 2, 4, 5]
    assert best_choices(first + second, 4) == [0, 1, 2, 3, 4, 5, 6, 7]
