"""POST /v1/chat/completions.

Owns: the JSON of this endpoint.
Does not know: how text is generated, nor the model's chat template.
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
from motet.server.parameters import drop_idle_chat_parameters
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import ChatRequest, Message
from motet.server.services import services_of


class ChatFormat:
    """`chat.completion` objects, and `chat.completion.chunk` in a stream."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": deltas[-1].finish_reason,
        }

    def first_chunk_choices(self, num_choices: int) -> list[dict[str, Any]]:
        return [_chunk(each, {"role": "assistant", "content": ""}) for each in range(num_choices)]

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        choices = []
        if delta.text:
            choices.append(_chunk(delta.choice, {"content": delta.text}))
        if delta.finish_reason is not None:
            choices.append(_chunk(delta.choice, {}, delta.finish_reason))
        return choices


async def create_chat_completion(request: Request) -> Response:
    """Answer the last message of a conversation."""
    services = services_of(request)
    body = drop_idle_chat_parameters(await read_json_object(request))
    params = parse(ChatRequest, body)
    context = context_of(request.scope)
    model = await find_model(request, services, params)
    grammar = await grammar_of(params, services.grammars)
    messages = [_for_template(message) for message in params.messages]
    # In a thread, for a long conversation must not hold up everybody's tokens.
    prompt = await asyncio.to_thread(services.tokenizer.encode_chat, messages)
    await wait_for_adapter(request, services, model)
    generation = start_generation(
        services,
        params,
        model,
        [prompt],
        context=context,
        grammar=grammar,
        max_tokens=params.max_completion_tokens or params.max_tokens,
        default_max_tokens=None,
        prompt_param="messages",
    )
    return await answer(request, params, generation, ChatFormat())


def _for_template(message: Message) -> dict[str, str]:
    # "developer" is the newer word for "system"; templates know the older one.
    role = "system" if message.role == "developer" else message.role
    named = {} if message.name is None else {"name": message.name}
    return {"role": role, "content": message.content, **named}


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
