"""One choice of a request: the text of a sequence as its tokens arrive.

Owns: tokens into text, stop strings, and the counts of tokens.
Does not know: where the tokens come from (`generate.py`), nor the JSON of either endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from motet.core.messages import TokenOutput
from motet.server.stop_strings import StopStringFinder
from motet.server.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice. After a `finish_reason` nothing follows."""

    choice: int
    text: str
    finish_reason: str | None


class Choice:
    """The text of one sequence as its tokens arrive.

    Attributes:
        prompt: which of the request's prompts it answers.
        num_tokens: tokens so far.
        num_cached_tokens: tokens of its prompt that came from the prefix cache; 0 until the
            first output.
        last_output_s: when the last output came, in monotonic time.
        is_finished: nothing more of it is wanted.
    """

    def __init__(
        self,
        index: int,
        prompt: int,
        tokenizer: TextTokenizer,
        stops: Sequence[str],
        stop_ids: Sequence[int],
    ) -> None:
        self._index = index
        self._decoder = tokenizer.decoder()
        self._finder = StopStringFinder(stops)
        self._stop_ids = frozenset(stop_ids)
        self.prompt = prompt
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.last_output_s: float | None = None
        self.is_finished = False

    def push(self, output: TokenOutput) -> Delta:
        """The text of an output; finished if the engine says so or a stop string is complete."""
        self.num_cached_tokens = output.num_cached_tokens
        pieces: list[str] = []
        for token_id in output.token_ids:
            self.num_tokens += 1
            # A token that ends the answer is not part of it.
            if output.finish_reason != "stop" or token_id not in self._stop_ids:
                pieces.append(self._finder.push(self._decoder.push(token_id)))
            if self._finder.found:
                return self._finished(pieces, "stop")
        if output.finish_reason is None:
            return Delta(self._index, "".join(pieces), None)
        pieces.append(self._finder.push(self._decoder.flush()))
        if self._finder.found:
            return self._finished(pieces, "stop")
        pieces.append(self._finder.flush())
        return self._finished(pieces, output.finish_reason)

    def _finished(self, pieces: list[str], reason: str) -> Delta:
        self.is_finished = True
        return Delta(self._index, "".join(pieces), reason)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a whole request."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int

    def as_json(self) -> dict[str, int | dict[str, int]]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }


def count_cached(choices: Collection[Choice]) -> int:
    """Prompt tokens that were cached for every choice of their prompt, over all prompts.

    A prompt counts once, however many choices it has; so the choice that found least decides.
    """
    least: dict[int, int] = {}
    for choice in choices:
        so_far = least.get(choice.prompt, choice.num_cached_tokens)
        least[choice.prompt] = min(so_far, choice.num_cached_tokens)
    return sum(least.values())
