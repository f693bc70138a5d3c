"""A prompt as an answer repeats it: its text, and where in it each of its tokens begins.

Owns: the match of tokens to the text that they came from.
Does not know: the answer that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motet.server.token_pieces import TokenPieces
from motet.server.tokenizer import IncrementalDecoder, TextTokenizer


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt.

    Attributes:
        offsets: for each token, the characters of `text` before it.
    """

    text: str
    token_ids: Sequence[int]
    offsets: Sequence[int]


def echo_of(
    prompt: str | list[int],
    token_ids: list[int],
    tokenizer: TextTokenizer,
    *,
    skip_special_tokens: bool,
) -> Echo:
    """How to repeat a prompt: as it was written, if that is what its tokens spell.

    If they do not, for the tokenizer changed the text first, or if there is no text, it is
    repeated as its tokens read.
    """
    if isinstance(prompt, str):
        offsets = offsets_in_text(prompt, token_ids, tokenizer.pieces)
        if offsets is not None:
            return Echo(prompt, token_ids, offsets)
    return _as_it_reads(token_ids, tokenizer.decoder(skip_special_tokens=skip_special_tokens))


def offsets_in_text(text: str, token_ids: Sequence[int], pieces: TokenPieces) -> list[int] | None:
    """For each token, the characters of `text` before it; None if they spell something else.

    Tokens that the text does not show, such as one that begins every prompt, take no room in it.
    Parts of a character have the place of the whole.

    The match goes from the end to the beginning, for that is where texts and tokens differ: some
    tokenizers put a space before the first word.
    """
    whole = text.encode()
    end, num_chars = len(whole), len(text)  # of what comes before the token, in bytes and in chars
    offsets: list[int] = []
    for token_id in reversed(token_ids):
        piece = pieces.of(token_id)
        if piece.startswith(b" ") and len(piece) == end + 1:
            piece = piece[1:]
        if whole.endswith(piece, 0, end):
            end -= len(piece)
            num_chars -= sum(not _continues_char(byte) for byte in piece)
        is_within_char = end < len(whole) and _continues_char(whole[end])
        offsets.append(num_chars - is_within_char)
    offsets.reverse()
    return offsets if end == 0 else None


def _as_it_reads(token_ids: list[int], decoder: IncrementalDecoder) -> Echo:
    pieces: list[str] = []
    offsets: list[int] = []
    num_chars = 0
    for token_id in token_ids:
        offsets.append(num_chars)
        pieces.append(decoder.push(token_id))
        num_chars += len(pieces[-1])
    pieces.append(decoder.flush())
    return Echo("".join(pieces), token_ids, offsets)


def _continues_char(byte: int) -> bool:
    """Whether a byte of UTF-8 is not the first of its character."""
    return byte & 0xC0 == 0x80
