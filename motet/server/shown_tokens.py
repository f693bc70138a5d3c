"""Which tokens an answer tells of, and where in its text each of them begins.

Owns: holding a token back until some of its text is shown, and leaving it out if none ever is.
Does not know: how tokens become text, nor what may become a stop string (`choice.py`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from motet.core.messages import TokenLogprobs


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token of the answer.

    Attributes:
        offset: characters of the answer before it; of the tokens that make up one character, all
            have its place.
        logprobs, routing: None if they were not asked for.
    """

    token_id: int
    offset: int
    logprobs: TokenLogprobs | None
    routing: list[float] | None = None


class ShownTokens:
    """The tokens of one choice, let go as their text is.

    A token is told of as soon as the first character of its text is shown. So what a stop string
    hides is told of neither in text nor in tokens, and a stream tells the same as a whole answer.
    Tokens without text of their own go with what comes after them.
    """

    def __init__(self) -> None:
        self._held: deque[ShownToken] = deque()
        self._num_decoded_chars = 0
        self._num_shown_chars = 0

    def push(
        self,
        token_id: int,
        text: str,
        logprobs: TokenLogprobs | None,
        routing: list[float] | None = None,
    ) -> None:
        """Take the next token, and the text that became certain with it."""
        self._held.append(ShownToken(token_id, self._num_decoded_chars, logprobs, routing))
        self._num_decoded_chars += len(text)

    def show(self, text: str) -> list[ShownToken]:
        """The tokens to tell of now that `text`, the next of the answer, is shown."""
        self._num_shown_chars += len(text)
        shown: list[ShownToken] = []
        while self._held and self._held[0].offset < self._num_shown_chars:
            shown.append(self._held.popleft())
        return shown

    def show_all(self) -> list[ShownToken]:
        """All that are held: nothing was hidden, and no more text comes."""
        shown = list(self._held)
        self._held.clear()
        return shown
