"""The bytes of single tokens, for each way in which tokenizers write them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from motet.server.token_pieces import TokenPieces, printable
from motet.server.tokenizer import TextTokenizer
from tests.server.tiny_model import BOS


def byte_fallback_tokenizer() -> Tokenizer:
    """As Llama 2's: a mark for spaces, and tokens for the bytes of what has no token."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b", "<0x41>b"]
    tokenizer = Tokenizer(
        models.BPE(
            {name: rank for rank, name in enumerate(names)},
            [("▁", "a")] if "a" in names else [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


@given(st.text(max_size=30))
def test_pieces_of_byte_level_tokens_are_the_text(model_dir: Path, text: str) -> None:
    tokenizer = TextTokenizer.from_dir(model_dir)
    pieces = [tokenizer.pieces.of(token_id) for token_id in tokenizer.encode(text)]
    assert b"".join(pieces) == text.encode()


@given(st.text(max_size=30))
def test_pieces_of_byte_fallback_tokens_are_the_text_after_a_space(text: str) -> None:
    tokenizer = byte_fallback_tokenizer()
    pieces = TokenPieces(tokenizer)
    found = b"".join(pieces.of(token_id) for token_id in tokenizer.encode(text).ids)
    # SentencePiece's mark in a text becomes a space, as everywhere.
    assert found == (f" {text}" if text else "").replace("▁", " ").encode()


def test_bytes_are_no_text_that_looks_like_them() -> None:
    tokenizer = byte_fallback_tokenizer()
    pieces = TokenPieces(tokenizer)
    assert pieces.of(tokenizer.token_to_id("<0xE2>")) == b"\xe2"
    assert pieces.of(tokenizer.token_to_id("<0x41>b")) == b"<0x41>b"
    assert pieces.of(tokenizer.token_to_id("▁a")) == b" a"


def test_added_tokens_stand_for_themselves(model_dir: Path) -> None:
    tokenizer = TextTokenizer.from_dir(model_dir)
    [bos] = tokenizer.encode(BOS)
    assert tokenizer.pieces.of(bos) == BOS.encode()
    # Neither is written in the alphabet of bytes, nor with a mark for spaces.
    other = byte_fallback_tokenizer()
    assert TokenPieces(other).of(other.token_to_id("<s>")) == b"<s>"


def test_metaspace_is_a_space() -> None:
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert TokenPieces(tokenizer).of(2) == b" a"


def test_other_tokenizers_say_what_a_token_reads_as() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##cd": 2}, unk_token="[UNK]"))
    assert TokenPieces(tokenizer).of(1) == b"ab"
    tokenizer.decoder = decoders.WordPiece()
    assert TokenPieces(tokenizer).of(1) == b"ab"


def test_ids_without_a_token_have_no_bytes(model_dir: Path) -> None:
    assert TextTokenizer.from_dir(model_dir).pieces.of(100_000) == b""


@pytest.mark.parametrize(
    ("piece", "written"),
    [("€".encode(), "€"), (b"\xe2\x82", "bytes:\\xe2\\x82"), (b"a\xff", "bytes:\\x61\\xff")],
)
def test_parts_of_characters_are_written_as_bytes(piece: bytes, written: str) -> None:
    assert printable(piece, prefix="bytes:") == written
