"""POST /tokenize and /detokenize, GET /tokenizer_info: the model's tokenizer over HTTP.

Owns: the JSON of these endpoints, which is vLLM's.
Does not know: how text is tokenized, nor the chat template.

Bodies may be as long as for generation, so all that grows with them is done in a thread.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from motet.server.admission import require_known_token_ids
from motet.server.chat import encode_messages
from motet.server.errors import bad_request
from motet.server.field_types import ModelName, PartWeights
from motet.server.generate import find_model
from motet.server.parameters import drop_idle_chat_parameters
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import ChatRequest, GenerationParameters, TokenId
from motet.server.services import Services, services_of


class TokenizeRequest(BaseModel):
    """POST /tokenize with a text. With `messages` it takes what a chat takes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: ModelName
    lora: PartWeights | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(ChatRequest):
    """POST /tokenize with a conversation."""

    return_token_strs: bool = False


class DetokenizeRequest(BaseModel):
    """POST /detokenize. Special tokens have text unless they are skipped, as in vLLM."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: ModelName
    lora: PartWeights | None = None
    tokens: list[TokenId]
    skip_special_tokens: bool = False


async def tokenize(request: Request) -> Response:
    """The tokens of a text, or of the prompt that a conversation becomes."""
    services = services_of(request)
    body = await _read_body(request, services)
    if "messages" in body and "prompt" in body:
        raise bad_request("'prompt' and 'messages' cannot both be given; leave one out.", "prompt")
    if "messages" in body:
        return await _tokenize_chat(request, services, body)
    params = parse(TokenizeRequest, body)
    await _require_model(request, services, params)
    token_ids = await asyncio.to_thread(
        services.tokenizer.encode, params.prompt, add_special_tokens=params.add_special_tokens
    )
    return await _tokens_response(services, token_ids, params.return_token_strs)


async def _tokenize_chat(request: Request, services: Services, body: dict[str, Any]) -> Response:
    params = parse(TokenizeChatRequest, drop_idle_chat_parameters(body))
    await find_model(request, services, params)
    token_ids = await encode_messages(services, params)
    return await _tokens_response(services, token_ids, params.return_token_strs)


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    services = services_of(request)
    params = parse(DetokenizeRequest, await _read_body(request, services))
    await _require_model(request, services, params)

    def respond() -> Response:
        vocab_size = services.client.info.shape.vocab_size
        require_known_token_ids(params.tokens, vocab_size, "tokens")
        text = services.tokenizer.decode(
            params.tokens, skip_special_tokens=params.skip_special_tokens
        )
        return _json({"prompt": text, "text": text})  # vLLM's name of it, and SGLang's

    return await asyncio.to_thread(respond)


async def tokenizer_info(request: Request) -> Response:
    """The tokenizer's configuration: its class, special tokens and chat template."""
    services = services_of(request)
    max_model_len = services.client.info.max_model_len
    return _json({**services.tokenizer.info, "model_max_length": max_model_len})


async def _read_body(request: Request, services: Services) -> dict[str, Any]:
    """Without nulls. The model may be left out: all that are served share one tokenizer."""
    body = await read_json_object(request)
    given = {name: value for name, value in body.items() if value is not None}
    return {"model": services.registry.names.base_name, **given}


async def _require_model(
    request: Request, services: Services, params: TokenizeRequest | DetokenizeRequest
) -> None:
    """Raises MotetError (404), for a model that there is not or that is not for the requester."""
    named = GenerationParameters(model=params.model, lora=params.lora)
    await find_model(request, services, named)


async def _tokens_response(
    services: Services, token_ids: list[int], with_strings: bool
) -> Response:
    def respond() -> Response:
        strings = services.tokenizer.token_strings(token_ids) if with_strings else None
        return _json(
            {
                "count": len(token_ids),
                "max_model_len": services.client.info.max_model_len,
                "tokens": token_ids,
                "token_strs": strings,
            }
        )

    return await asyncio.to_thread(respond)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
