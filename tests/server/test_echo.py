"""Where tokens begin in the prompt that they came from."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from motet.server.echo import echo_of, offsets_in_text
from motet.server.token_pieces import TokenPieces
from motet.server.tokenizer import TextTokenizer
from tests.server.test_token_pieces import byte_fallback_tokenizer
from tests.server.tiny_model import BOS, write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


@given(st.text(max_size=30))
def test_each_byte_has_the_place_of_its_character(tokenizer: TextTokenizer, text: str) -> None:
    offsets = offsets_in_text(text, tokenizer.encode(text), tokenizer.pieces)
    assert offsets == [place for place, char in enumerate(text) for _ in char.encode()]


@given(st.text("ab ü€", max_size=20))
def test_a_space_that_was_added_takes_no_room(text: str) -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.encode(text).ids
    offsets = offsets_in_text(text, ids, TokenPieces(tokenizer))
    expected = [place for place, char in enumerate(text) for _ in _tokens_of(char)]
    first = [0] if text else []  # the added space is a token of its own here
    assert offsets == first + expected


def _tokens_of(char: str) -> bytes | str:
    return char if char in "b " else char.encode()


def test_special_tokens_that_are_not_shown_take_no_room(tokenizer: TextTokenizer) -> None:
    [bos] = tokenizer.encode(BOS)
    ids = [bos, *tokenizer.encode("aü"), bos, *tokenizer.encode("b")]
    echo = echo_of(ids, ids, tokenizer, skip_special_tokens=True)
    assert (echo.text, echo.offsets) == ("aüb", [0, 0, 1, 1, 2, 2])
    echo = echo_of(ids, ids, tokenizer, skip_special_tokens=False)
    assert (echo.text, echo.offsets) == (f"{BOS}aü{BOS}b", [0, 5, 6, 6, 7, 12])


def test_a_text_is_repeated_as_it_was_written(tokenizer: TextTokenizer) -> None:
    text = f"a{BOS}b"
    echo = echo_of(text, tokenizer.encode(text), tokenizer, skip_special_tokens=True)
    assert (echo.text, echo.offsets) == (text, [0, 1, 6])


def test_a_text_that_the_tokenizer_changes_is_repeated_as_it_reads(tmp_path: Path) -> None:
    file = write_tiny_model(tmp_path) / "tokenizer.json"
    lowering = Tokenizer.from_file(str(file))
    lowering.normalizer = normalizers.Lowercase()
    lowering.save(str(file))
    tokenizer = TextTokenizer.from_dir(tmp_path)
    echo = echo_of("aBü", tokenizer.encode("aBü"), tokenizer, skip_special_tokens=True)
    assert (echo.text, echo.offsets) == ("abü", [0, 1, 2, 2])


def test_broken_characters_move_no_others(tokenizer: TextTokenizer) -> None:
    a, b, broken = tokenizer.encode("a")[0], tokenizer.encode("b")[0], tokenizer.encode("ü")[0]
    ids = [a, broken, b]
    echo = echo_of(ids, ids, tokenizer, skip_special_tokens=True)
    assert (echo.text, echo.offsets[0]) == ("a\N{REPLACEMENT CHARACTER}b", 0)


@given(st.lists(st.integers(0, 258), max_size=30), st.booleans())
def test_offsets_of_any_tokens_never_fall_nor_leave_the_text(
    tokenizer: TextTokenizer, token_ids: list[int], skip: bool
) -> None:
    """Broken characters among them, which their text shows as one mark or as several."""
    echo = echo_of(token_ids, token_ids, tokenizer, skip_special_tokens=skip)
    assert len(echo.offsets) == len(token_ids)
    assert list(echo.offsets) == sorted(echo.offsets)
    assert all(0 <= offset <= len(echo.text) for offset in echo.offsets)
