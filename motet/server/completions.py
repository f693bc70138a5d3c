"""POST /v1/completions.

Owns: the JSON of this endpoint.
Does not know: how text is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from motet.server.answer import answer
from motet.server.choice import Delta
from motet.server.context import context_of
from motet.server.generate import find_model, start_generation, wait_for_adapter
from motet.server.grammar_service import grammar_of
from motet.server.parameters import drop_idle_completion_parameters
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import CompletionRequest
from motet.server.services import Services, services_of
from motet.server.tokenizer import TextTokenizer

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionFormat:
    """`text_completion` objects; a stream's chunks are of the same kind."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        return _choice(index, text, deltas[-1].finish_reason)

    def first_chunk_choices(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        return [_choice(delta.choice, delta.text, delta.finish_reason)]


async def create_completion(request: Request) -> Response:
    """Complete one or more prompts, given as text or as token ids."""
    services = services_of(request)
    body = drop_idle_completion_parameters(await read_json_object(request))
    params = parse(CompletionRequest, body)
    context = context_of(request.scope)
    model = await find_model(request, services, params)
    grammar = await grammar_of(params, services.grammars)
    prompts = await _token_ids(services, params.prompt)
    await wait_for_adapter(request, services, model)
    generation = start_generation(
        services,
        params,
        model,
        prompts,
        context=context,
        grammar=grammar,
        max_tokens=params.max_tokens,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        prompt_param="prompt",
    )
    return await answer(request, params, generation, CompletionFormat())


async def _token_ids(services: Services, prompts: list[str] | list[list[int]]) -> list[list[int]]:
    # In a thread, for a long prompt must not hold up everybody's tokens.
    return await asyncio.to_thread(_encode_text, services.tokenizer, prompts)


def _encode_text(tokenizer: TextTokenizer, prompts: list[str] | list[list[int]]) -> list[list[int]]:
    return [tokenizer.encode(each) if isinstance(each, str) else each for each in prompts]


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
