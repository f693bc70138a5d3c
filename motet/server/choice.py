"""One choice of a request: the text of a sequence as its tokens arrive.

Owns: tokens into text, stop strings, the counts of tokens, and which choices are best.
Does not know: where the tokens come from (`generate.py`), nor the JSON of either endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from motet.core.messages import TokenLogprobs, TokenOutput
from motet.server.protocol import GenerationParameters
from motet.server.shown_tokens import ShownToken, ShownTokens
from motet.server.stop_strings import StopStringFinder
from motet.server.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice. After a `finish_reason` nothing follows.

    Attributes:
        tokens: those whose text begins to be shown; none unless the request asked for tokens.
        is_first: nothing of this choice was said before.
        prompt_logprobs: in the first, if they were asked for: of the prompt's tokens from the
            second on.
    """

    choice: int
    text: str
    finish_reason: str | None
    tokens: Sequence[ShownToken] = ()
    is_first: bool = False
    prompt_logprobs: Sequence[TokenLogprobs] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.text and self.finish_reason is None and not self.tokens


def token_ids_of(deltas: Sequence[Delta]) -> list[int]:
    """The tokens that these tell of."""
    return [token.token_id for delta in deltas for token in delta.tokens]


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
        params: GenerationParameters,
        stop_ids: Sequence[int],
    ) -> None:
        self._index = index
        self._decoder = tokenizer.decoder(skip_special_tokens=params.skip_special_tokens)
        self._includes_stop = params.include_stop_str_in_output
        self._finder = StopStringFinder(params.stop, includes_stop=self._includes_stop)
        self._min_tokens = params.min_tokens
        self._stop_ids = frozenset(stop_ids)
        self._shown = ShownTokens() if params.tells_tokens else None
        self._prompt_logprobs: Sequence[TokenLogprobs] | None = None
        self._has_begun = False
        self._total_logprob = 0.0
        self.prompt = prompt
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.last_output_s: float | None = None
        self.is_finished = False

    @property
    def mean_logprob(self) -> float:
        """Of the tokens so far, if they came with log probabilities; 0 without tokens."""
        return self._total_logprob / max(1, self.num_tokens)

    def push(self, output: TokenOutput) -> Delta:
        """The text of an output; finished if the engine says so or a stop string is complete."""
        self.num_cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self._prompt_logprobs = output.prompt_logprobs
        pieces: list[str] = []
        for place, token_id in enumerate(output.token_ids):
            logprobs = None if output.logprobs is None else output.logprobs[place]
            routing = None if output.routing is None else output.routing[place]
            is_end = output.finish_reason == "stop" and token_id in self._stop_ids
            pieces.append(self._push_token(token_id, logprobs, routing, is_end=is_end))
            if self._finder.found:
                return self._finished(pieces, "stop")
        if output.finish_reason is None:
            return self._delta("".join(pieces), None)
        pieces.append(self._finder.push(self._decoder.flush()))
        if self._finder.found:
            return self._finished(pieces, "stop")
        pieces.append(self._finder.flush())
        return self._finished(pieces, output.finish_reason)

    def _push_token(
        self,
        token_id: int,
        logprobs: TokenLogprobs | None,
        routing: list[float] | None,
        *,
        is_end: bool,
    ) -> str:
        """The text that may be shown now. A token that ends the answer has none in it."""
        self.num_tokens += 1
        if logprobs is not None:
            self._total_logprob += logprobs.logprob
        text = "" if is_end and not self._includes_stop else self._decoder.push(token_id)
        if self._shown is not None:
            self._shown.push(token_id, text, logprobs, routing)
        # As token ids do, stop strings end nothing before there are enough tokens.
        return text if self.num_tokens <= self._min_tokens else self._finder.push(text)

    def _finished(self, pieces: list[str], reason: str) -> Delta:
        self.is_finished = True
        return self._delta("".join(pieces), reason)

    def _delta(self, text: str, reason: str | None) -> Delta:
        tokens: list[ShownToken] = []
        if self._shown is not None:
            tokens = self._shown.show(text)
            if self.is_finished and not self._finder.found:
                tokens += self._shown.show_all()
        delta = Delta(self._index, text, reason, tokens)
        if self._has_begun or delta.is_empty:
            return delta
        self._has_begun = True
        return replace(delta, is_first=True, prompt_logprobs=self._prompt_logprobs)


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


def best_choices(choices: Sequence[Choice], num_kept: int) -> list[int]:
    """Of the choices of each prompt the best, likeliest first, prompt by prompt.

    The best have the highest log probability per token. As many as there are stay in their order.

    Args:
        choices: all of them, prompt by prompt.
        num_kept: how many to keep for each prompt.

    Returns:
        Their places in `choices`.
    """
    places: dict[int, list[int]] = {}
    for place, choice in enumerate(choices):
        places.setdefault(choice.prompt, []).append(place)
    best: list[int] = []
    for each in places.values():
        if len(each) > num_kept:
            each.sort(key=lambda place: -choices[place].mean_logprob)
        best.extend(each[:num_kept])
    return best
