"""What a single token stands for: its bytes, which may be a part of a character.

Owns: the ways in which tokenizers write bytes into the names of their tokens.
Does not know: sequences of tokens; their text is more than their pieces (`tokenizer.py`), for a
decoder may join, strip and correct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenPieces:
    """The bytes of every token of a tokenizer, worked out as they are asked for.

    Tokens that were added to the vocabulary stand for themselves. Of the others, the tokenizer's
    decoder says how they are written: in GPT-2's alphabet of bytes (byte-level BPE), or with a
    mark for spaces and `<0xE2>` for bytes that are no token of their own (SentencePiece). Where
    it says neither, a token's bytes are those of its text when it is decoded alone.

    Attributes:
        special_ids: tokens that texts usually leave out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content.encode() for token_id, token in added.items()}
        self.special_ids = frozenset(each for each, token in added.items() if token.special)
        decoders = list(_decoders(tokenizer))
        kinds = {each["type"] for each in decoders}
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        self._space_marks = _space_marks(decoders)
        self._pieces: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """The bytes of a token; none for an id that the tokenizer does not have."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._work_out(token_id)
        return piece

    def _work_out(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        name = self._tokenizer.id_to_token(token_id)
        if name is None:  # models have more rows than tokens, to a round number
            return b""
        if self._is_byte_level:
            return _from_byte_alphabet(name)
        byte = _BYTE_TOKEN.fullmatch(name) if self._has_byte_tokens else None
        if byte is not None:
            return bytes.fromhex(byte[1])
        if self._space_marks:
            for mark in self._space_marks:
                name = name.replace(mark, " ")
            return str(name).encode()
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text.encode()


def printable(piece: bytes, prefix: str = "") -> str:
    """A piece as text; what is not whole characters as its bytes, `\\xe2\\x82`, after `prefix`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in piece)


def _decoders(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    if tokenizer.decoder is None:
        return
    state = json.loads(tokenizer.decoder.__getstate__())
    yield from state["decoders"] if state["type"] == "Sequence" else [state]


def _space_marks(decoders: list[dict[str, Any]]) -> list[str]:
    """What stands for a space in the names of tokens."""
    marks = [each["replacement"] for each in decoders if each["type"] == "Metaspace"]
    for each in decoders:
        if each["type"] == "Replace" and each["content"] == " ":
            marks.append(each["pattern"].get("String", " "))
    return marks


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 is itself, the other bytes are the characters from U+0100 on."""
    printables = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printables)]
    return {chr(byte): byte for byte in printables} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_BYTE_OF_CHAR = _byte_alphabet()


def _from_byte_alphabet(name: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHAR[char] for char in name)
    except KeyError:  # not written in the alphabet, so it stands for itself
        return name.encode()
