"""Log probabilities as JSON: OpenAI's two formats, and vLLM's for prompts.

Owns: the keys of these objects, and how a token that is a part of a character is written.
Does not know: which tokens are told of (`shown_tokens.py`).

All three write a token as its own text, which is not always what it adds to the answer: special
tokens are named, and parts of characters are written as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from motet.core.messages import TokenLogprobs
from motet.server.echo import Echo
from motet.server.shown_tokens import ShownToken
from motet.server.token_pieces import TokenPieces, printable

Json = dict[str, Any]


def chat_logprobs(
    tokens: Iterable[ShownToken],
    num_top: int,
    pieces: TokenPieces,
    *,
    skip_special_tokens: bool,
) -> Json:
    """`choices[].logprobs` of a chat: each token with the `num_top` likeliest in its place.

    Args:
        skip_special_tokens: the text leaves special tokens out, so they have no `bytes` in it.
    """

    def told(token_id: int, logprob: float) -> Json:
        piece = pieces.of(token_id)
        has_bytes = not (skip_special_tokens and token_id in pieces.special_ids)
        return {
            "token": printable(piece),
            "logprob": logprob,
            "bytes": list(piece) if has_bytes else None,
        }

    content = []
    for token in tokens:
        if (logprobs := token.logprobs) is None:
            continue
        top = zip(logprobs.top_token_ids[:num_top], logprobs.top_logprobs, strict=False)
        content.append(
            {
                **told(token.token_id, logprobs.logprob),
                "top_logprobs": [told(*each) for each in top],
            }
        )
    return {"content": content, "refusal": None}


@dataclass(slots=True)
class CompletionLogprobs:
    """`choices[].logprobs` of a completion: four lists with an entry for each token.

    Of two tokens that are written alike, `top_logprobs` has the likelier. Among its entries are
    always the token itself and the likeliest, so there may be one more than asked for, or two.

    Args:
        num_top: how many of the likeliest tokens to tell.
    """

    num_top: int
    pieces: TokenPieces
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add_prompt(self, echo: Echo, logprobs: Sequence[TokenLogprobs]) -> None:
        """The tokens of the prompt. Nothing comes before the first, so it has no probability."""
        of_tokens = [None, *logprobs]
        for token_id, offset, each in zip(echo.token_ids, echo.offsets, of_tokens, strict=True):
            self._add(token_id, offset, each)

    def add_answer(self, tokens: Iterable[ShownToken], num_chars_before: int) -> None:
        """Tokens of the answer, which begins after `num_chars_before` characters."""
        for token in tokens:
            self._add(token.token_id, num_chars_before + token.offset, token.logprobs)

    def as_json(self) -> Json:
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }

    def _add(self, token_id: int, offset: int, logprobs: TokenLogprobs | None) -> None:
        self.tokens.append(self._name(token_id))
        self.text_offset.append(offset)
        if logprobs is None:
            self.token_logprobs.append(None)
            self.top_logprobs.append(None)
            return
        self.token_logprobs.append(logprobs.logprob)
        num_told = max(1, self.num_top)
        top: dict[str, float] = {}
        for each, logprob in zip(
            logprobs.top_token_ids[:num_told], logprobs.top_logprobs, strict=False
        ):
            top.setdefault(self._name(each), logprob)
        top.setdefault(self._name(token_id), logprobs.logprob)
        self.top_logprobs.append(top)

    def _name(self, token_id: int) -> str:
        return printable(self.pieces.of(token_id), prefix="bytes:")


def prompt_logprobs(
    logprobs: Sequence[TokenLogprobs], num_top: int, pieces: TokenPieces
) -> list[Json | None]:
    """vLLM's `prompt_logprobs`: by token id, each token of the prompt and the likeliest there."""
    return [None, *(_by_token_id(each, num_top, pieces) for each in logprobs)]


def _by_token_id(logprobs: TokenLogprobs, num_top: int, pieces: TokenPieces) -> Json:
    # The token itself comes last, for it has a rank of its own; if it is among the likeliest,
    # that rank is the same.
    ids = [*logprobs.top_token_ids[:num_top], logprobs.token_id]
    values = [*logprobs.top_logprobs[:num_top], logprobs.logprob]
    ranks = [*range(1, len(ids)), logprobs.rank]
    return {
        str(token_id): {"logprob": value, "rank": rank, "decoded_token": _text(token_id, pieces)}
        for token_id, value, rank in zip(ids, values, ranks, strict=True)
    }


def _text(token_id: int, pieces: TokenPieces) -> str:
    return pieces.of(token_id).decode(errors="replace")
