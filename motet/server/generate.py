"""One path from a checked request to pieces of text, for both endpoints, streamed or not.

Owns: tokens of a choice into text, stop strings, token counts, latency observations.
Does not know: the JSON of either endpoint.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from motet.core.messages import AddRequest, TokenOutput
from motet.server import admission
from motet.server.errors import bad_request
from motet.server.protocol import GenerationParameters
from motet.server.services import Services
from motet.server.stop_strings import StopStringFinder
from motet.server.token_stream import TokenStream
from motet.server.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice. After a `finish_reason` nothing follows."""

    choice: int
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a whole request."""

    num_prompt_tokens: int
    num_output_tokens: int

    def as_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
        }


class _Choice:
    """The text of one sequence as its tokens arrive."""

    def __init__(
        self, index: int, tokenizer: TextTokenizer, stops: Sequence[str], stop_ids: Sequence[int]
    ) -> None:
        self._index = index
        self._decoder = tokenizer.decoder()
        self._finder = StopStringFinder(stops)
        self._stop_ids = frozenset(stop_ids)
        self.num_tokens = 0
        self.last_output_s: float | None = None
        self.is_finished = False

    def push(self, output: TokenOutput) -> Delta:
        """The text of an output; finished if the engine says so or a stop string is complete."""
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


class Generation:
    """All choices of one HTTP request, running in the engine. Close it in any case.

    Attributes:
        id: unique among all requests, unlike a request id that a client chose.
    """

    def __init__(
        self,
        services: Services,
        group: str,
        adapter_label: str,
        stream: TokenStream,
        choices: dict[str, _Choice],
        num_prompt_tokens: int,
    ) -> None:
        self.id = group
        self._metrics = services.metrics
        self._label = adapter_label
        self._stream = stream
        self._choices = choices
        self._num_prompt_tokens = num_prompt_tokens
        self._started_s = time.monotonic()
        self._is_closed = False

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        num_output_tokens = sum(choice.num_tokens for choice in self._choices.values())
        return Usage(self._num_prompt_tokens, num_output_tokens)

    async def deltas(self) -> AsyncIterator[Delta]:
        """New text, and the end of each choice. Raises MotetError if the engine fails."""
        while (output := await self._stream.next()) is not None:
            choice = self._choices[output.request_id]
            if choice.is_finished:  # at a stop string; this was on its way already
                continue
            self._observe_latency(choice, len(output.token_ids))
            delta = choice.push(output)
            if choice.is_finished:
                self._stream.abort(output.request_id)
            if delta.text or delta.finish_reason is not None:
                yield delta

    def close(self) -> None:
        """Abort what has not finished, and count what was done."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stream.close()
        usage = self.usage
        self._metrics.add_tokens(self._label, usage.num_prompt_tokens, usage.num_output_tokens)

    def _observe_latency(self, choice: _Choice, num_tokens: int) -> None:
        now_s = time.monotonic()
        if choice.last_output_s is None:
            self._metrics.ttft_s.observe(now_s - self._started_s)
        elif num_tokens:
            self._metrics.itl_s.observe((now_s - choice.last_output_s) / num_tokens)
        choice.last_output_s = now_s


def start_generation(
    services: Services,
    params: GenerationParameters,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int | None,
    default_max_tokens: int | None,
    prompt_param: str,
) -> Generation:
    """Check every prompt against the model's limits and hand all choices to the engine.

    Does not wait: the name is resolved to a digest and submitted in one go, so that a reload
    cannot come between.

    Args:
        prompts: token ids of each prompt; choice `p * n + i` is choice i of prompt p.
        max_tokens: tokens to generate at most, as asked for.
        default_max_tokens: if it was not asked for; fewer if there is no room for so many, and
            None is all that there is room for.
        prompt_param: the field that holds the prompts, for errors.

    Raises:
        MotetError: the request can never be done, or the engine is not ready.
    """
    engine = services.client.info
    vocab_size = engine.shape.vocab_size
    adapter = services.registry.resolve(params.model)
    admission.require_known_token_ids(params.stop_token_ids, vocab_size, "stop_token_ids")
    seed = admission.choose_seed(params)
    group = uuid.uuid4().hex
    requests: list[AddRequest] = []
    choices: dict[str, _Choice] = {}
    for prompt in prompts:
        if not prompt:
            raise bad_request(f"'{prompt_param}' has no tokens.", prompt_param)
        admission.require_known_token_ids(prompt, vocab_size, prompt_param)
        admitted = admission.admit_max_tokens(
            num_prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            default_max_tokens=default_max_tokens,
            engine=engine,
            adapter=adapter,
            param=prompt_param,
        )
        for index in range(params.n):
            sampling = admission.sampling_params(
                params,
                max_tokens=admitted,
                seed=seed,
                choice=index,
                eos_token_ids=services.tokenizer.eos_token_ids,
            )
            request_id = f"{group}-{len(requests)}"
            choices[request_id] = _Choice(
                len(requests), services.tokenizer, params.stop, sampling.stop_token_ids
            )
            digest = None if adapter is None else adapter.info.digest
            requests.append(AddRequest(request_id, prompt, sampling, digest))
    stream = services.client.submit(requests)
    label = services.registry.base_name if adapter is None else adapter.name
    return Generation(services, group, label, stream, choices, sum(len(each) for each in prompts))
