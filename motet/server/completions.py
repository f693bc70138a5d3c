"""POST /v1/completions.

Owns: the JSON of this endpoint.
Does not know: how text is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from motet.core.messages import RoutedSetInfo
from motet.server.answer import answer
from motet.server.choice import Delta, token_ids_of
from motet.server.context import context_of
from motet.server.echo import Echo, echo_of
from motet.server.generate import find_model, start_generation, wait_for_adapter
from motet.server.grammar_service import grammar_of
from motet.server.logprobs_json import CompletionLogprobs, prompt_logprobs
from motet.server.parameters import (
    drop_idle_completion_parameters,
    ignored_parameters,
    tell_ignored,
    without,
)
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import ALL_PARAMETERS, CompletionRequest
from motet.server.routing_json import routing_json
from motet.server.services import services_of
from motet.server.tokenizer import TextTokenizer

DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine gets it, and as the answer repeats it, if it does."""

    token_ids: list[int]
    echo: Echo | None


class CompletionFormat:
    """`text_completion` objects; a stream's chunks are of the same kind."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(
        self,
        params: CompletionRequest,
        prompts: Sequence[Prompt],
        tokenizer: TextTokenizer,
        routed: RoutedSetInfo | None = None,
    ) -> None:
        self._params = params
        self._prompts = prompts
        self._pieces = tokenizer.pieces
        self._routed = routed

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        return self._choice(index, deltas)

    def whole_fields(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        return {}

    def first_chunk_fields(self) -> dict[str, Any]:
        return {}

    def first_chunk_choices(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        return [self._choice(delta.choice, [delta])]

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        """A choice, or what `deltas` add to it. What there is to say of its prompt comes first."""
        prompt = self._prompts[index // self._params.n]
        text = "".join(delta.text for delta in deltas)
        if prompt.echo is not None and deltas[0].is_first:
            text = prompt.echo.text + text
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(prompt, deltas),
            "finish_reason": deltas[-1].finish_reason,
            **self._extra_fields(prompt, deltas),
        }

    def _logprobs(self, prompt: Prompt, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        if self._params.logprobs is None:
            return None
        logprobs = CompletionLogprobs(self._params.logprobs, self._pieces)
        of_prompt = deltas[0].prompt_logprobs
        if prompt.echo is not None and of_prompt is not None:
            logprobs.add_prompt(prompt.echo, of_prompt)
        num_chars_before = 0 if prompt.echo is None else len(prompt.echo.text)
        for delta in deltas:
            logprobs.add_answer(delta.tokens, num_chars_before)
        return logprobs.as_json()

    def _extra_fields(self, prompt: Prompt, deltas: Sequence[Delta]) -> dict[str, Any]:
        """vLLM's fields and our own, only where they were asked for."""
        fields: dict[str, Any] = {}
        if self._params.return_token_ids:
            if deltas[0].is_first:
                fields["prompt_token_ids"] = prompt.token_ids
            fields["token_ids"] = token_ids_of(deltas)
        if self._routed is not None:
            tokens = (token for delta in deltas for token in delta.tokens)
            fields["routing"] = routing_json(tokens, self._routed, self._pieces, prefix="bytes:")
        if self._params.prompt_logprobs is not None:
            fields["prompt_logprobs"] = prompt_logprobs(
                deltas[0].prompt_logprobs or (), self._params.prompt_logprobs, self._pieces
            )
        return fields


async def create_completion(request: Request) -> Response:
    """Complete one or more prompts, given as text or as token ids."""
    services = services_of(request)
    body = await read_json_object(request)
    is_lenient = services.config.lenient_parameters
    ignored = ignored_parameters(body, ALL_PARAMETERS, is_lenient=is_lenient)
    params = parse(CompletionRequest, drop_idle_completion_parameters(without(body, ignored)))
    context = context_of(request.scope)
    model = await find_model(request, services, params)
    grammar = await grammar_of(params, services.grammars, context.principal.tenant)
    # In a thread, for a long prompt must not hold up everybody's tokens.
    prompts = await asyncio.to_thread(_prepare, services.tokenizer, params)
    await wait_for_adapter(request, services, model)
    generation = start_generation(
        services,
        params,
        model,
        [prompt.token_ids for prompt in prompts],
        context=context,
        grammar=grammar,
        max_tokens=params.max_tokens,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        prompt_param="prompt",
    )
    form = CompletionFormat(params, prompts, services.tokenizer, generation.routed)
    response = await answer(request, params, generation, form)
    tell_ignored(response, ignored)
    return response


def _prepare(tokenizer: TextTokenizer, params: CompletionRequest) -> list[Prompt]:
    return [_prompt(tokenizer, params, given) for given in params.prompt]


def _prompt(tokenizer: TextTokenizer, params: CompletionRequest, given: str | list[int]) -> Prompt:
    if isinstance(given, str):
        token_ids = tokenizer.encode(given, add_special_tokens=params.add_special_tokens)
    else:
        token_ids = given
    if not params.echo:
        return Prompt(token_ids, None)
    skip = params.skip_special_tokens
    return Prompt(token_ids, echo_of(given, token_ids, tokenizer, skip_special_tokens=skip))
