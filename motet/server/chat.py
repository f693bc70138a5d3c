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
from motet.server.parameters import drop_idle_chat_parameters
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import ChatRequest, Message
from motet.server.services import services_of
from motet.server.tokenizer import TextTokenizer
from motet.server.tools.chat_format import ToolChatFormat
from motet.server.tools.forms import form_of
from motet.server.tools.grammar import compile_in_thread, constrain
from motet.server.tools.prompt import template_input
from motet.server.tools.use import ToolUse, tool_use


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
    use = tool_use(params.tools, params.tool_choice, is_parallel=params.parallel_tool_calls)
    # In a thread, for a long conversation must not hold up everybody's tokens.
    prompt = await asyncio.to_thread(_encode, services.tokenizer, params.messages, use)
    tool_form = form_of(services.tokenizer.tool_template_source)
    grammar = None if use is None else await constrain(use, tool_form, compile_in_thread)
    await wait_for_adapter(request, services, model)
    generation = start_generation(
        services,
        params,
        model,
        [prompt],
        context=context,
        max_tokens=params.max_completion_tokens or params.max_tokens,
        default_max_tokens=None,
        prompt_param="messages",
        grammar=grammar,
    )
    form = ChatFormat() if use is None else ToolChatFormat(ChatFormat(), tool_form, use)
    return await answer(request, params, generation, form)


def _encode(
    tokenizer: TextTokenizer, messages: Sequence[Message], use: ToolUse | None
) -> list[int]:
    for_template, tools = template_input(tokenizer.tool_template_source, messages, use)
    return tokenizer.encode_chat(for_template, tools=tools)


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
