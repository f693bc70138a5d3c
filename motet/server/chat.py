"""POST /v1/chat/completions.

Owns: the JSON of this endpoint.
Does not know: how text is generated, nor the model's chat template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.core.messages import RoutedSetInfo
from motet.server.answer import AnswerFormat, answer
from motet.server.chat_template import ChatOptions
from motet.server.choice import Delta, token_ids_of
from motet.server.context import context_of
from motet.server.errors import bad_request
from motet.server.generate import Generation, find_model, start_generation, wait_for_adapter
from motet.server.grammar_service import GrammarService, grammar_of
from motet.server.logprobs_json import chat_logprobs, prompt_logprobs
from motet.server.parameters import (
    drop_idle_chat_parameters,
    ignored_parameters,
    tell_ignored,
    without,
)
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import ALL_PARAMETERS, ChatRequest
from motet.server.routing_json import routing_json
from motet.server.services import Services, services_of
from motet.server.structured import Constraint, constraint_of
from motet.server.tokenizer import TextTokenizer
from motet.server.tools.chat_format import ToolChatFormat
from motet.server.tools.forms import ToolForm, form_of
from motet.server.tools.grammar import constrain
from motet.server.tools.prompt import template_input
from motet.server.tools.use import ToolUse, tool_use


class ChatFormat:
    """`chat.completion` objects, and `chat.completion.chunk` in a stream."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self,
        params: ChatRequest,
        prompt_token_ids: list[int],
        tokenizer: TextTokenizer,
        routed: RoutedSetInfo | None = None,
    ) -> None:
        self._params = params
        self._prompt_token_ids = prompt_token_ids
        self._pieces = tokenizer.pieces
        self._routed = routed

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(deltas),
            "finish_reason": deltas[-1].finish_reason,
            **self._extra_fields(deltas),
        }

    def whole_fields(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        fields = self.first_chunk_fields()
        if self._params.prompt_logprobs is not None:
            of_prompt = deltas[0].prompt_logprobs or ()
            fields["prompt_logprobs"] = prompt_logprobs(
                of_prompt, self._params.prompt_logprobs, self._pieces
            )
        return fields

    def first_chunk_fields(self) -> dict[str, Any]:
        if self._params.return_token_ids:
            return {"prompt_token_ids": self._prompt_token_ids}
        return {}

    def first_chunk_choices(self, num_choices: int) -> list[dict[str, Any]]:
        return [_chunk(each, {"role": "assistant", "content": ""}) for each in range(num_choices)]

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        choices = []
        if delta.text or delta.tokens:
            said = _chunk(delta.choice, {"content": delta.text}, None, self._logprobs([delta]))
            choices.append({**said, **self._extra_fields([delta])})
        if delta.finish_reason is not None:
            choices.append(_chunk(delta.choice, {}, delta.finish_reason))
        return choices

    def _logprobs(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        if not self._params.logprobs:
            return None
        tokens = [token for delta in deltas for token in delta.tokens]
        return chat_logprobs(
            tokens,
            self._params.top_logprobs,
            self._pieces,
            skip_special_tokens=self._params.skip_special_tokens,
        )

    def _extra_fields(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """vLLM's field and our own, only where they were asked for."""
        fields: dict[str, Any] = {}
        if self._params.return_token_ids:
            fields["token_ids"] = token_ids_of(deltas)
        if self._routed is not None:
            tokens = (token for delta in deltas for token in delta.tokens)
            fields["routing"] = routing_json(tokens, self._routed, self._pieces)
        return fields


@dataclass(frozen=True, slots=True)
class RunningChat:
    """A chat in the engine. Close its generation in any case."""

    params: ChatRequest
    generation: Generation
    form: AnswerFormat


async def create_chat_completion(request: Request) -> Response:
    """Answer the last message of a conversation."""
    body = await read_json_object(request)
    is_lenient = services_of(request).config.lenient_parameters
    ignored = ignored_parameters(body, ALL_PARAMETERS, is_lenient=is_lenient)
    chat = await start_chat(request, without(body, ignored))
    response = await answer(request, chat.params, chat.generation, chat.form)
    tell_ignored(response, ignored)
    return response


async def start_chat(request: Request, body: Mapping[str, Any]) -> RunningChat:
    """Check a chat's body and hand the chat to the engine.

    Raises:
        MotetError: the body is at fault, the model cannot be had, or the client left.
    """
    services = services_of(request)
    params = parse_chat(body)
    context = context_of(request.scope)
    model = await find_model(request, services, params)
    use = _tool_use(params)
    tool_form = form_of(services.tokenizer.tool_template_source)
    tenant = context.principal.tenant
    grammar = await _grammar(params, use, tool_form, services.grammars, tenant)
    prompt = await encode_messages(services, params)
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
    plain = ChatFormat(params, prompt, services.tokenizer, generation.routed)
    form = plain if use is None else ToolChatFormat(plain, tool_form, use)
    return RunningChat(params, generation, form)


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """A chat's body, checked. Raises MotetError (400)."""
    return parse(ChatRequest, drop_idle_chat_parameters(body))


async def encode_messages(services: Services, params: ChatRequest) -> list[int]:
    """Token ids of the prompt that the conversation becomes. Raises MotetError (400)."""
    # In a thread, for a long conversation must not hold up everybody's tokens.
    return await asyncio.to_thread(_encode, services.tokenizer, params, _tool_use(params))


def _tool_use(params: ChatRequest) -> ToolUse | None:
    return tool_use(params.tools, params.tool_choice, is_parallel=params.parallel_tool_calls)


def chat_options(params: ChatRequest) -> ChatOptions:
    """How the request wants its conversation written out."""
    begins_message = params.add_generation_prompt
    if begins_message is None:
        begins_message = not params.continue_final_message
    return ChatOptions(
        add_generation_prompt=begins_message,
        continue_final_message=params.continue_final_message,
        add_special_tokens=params.add_special_tokens,
        template_kwargs=params.chat_template_kwargs.model_dump(exclude_none=True),
    )


async def _grammar(
    params: ChatRequest,
    use: ToolUse | None,
    form: ToolForm,
    grammars: GrammarService,
    tenant: str | None,
) -> str | None:
    """What the answer has to be: calls, what `response_format` says, or either."""
    if use is None:
        return await grammar_of(params, grammars, tenant)

    async def compile_lark(text: str, param: str) -> str:
        return await grammars.compile(Constraint("grammar", text, param), tenant)

    constraint = constraint_of(params.response_format, params.structured_outputs)
    if constraint is None:
        return await constrain(use, form, compile_lark)
    # JSON that is content has to differ from a call at its first character.
    is_either = constraint.kind == "json_schema" and form.has_tags
    if not is_either and not use.is_required:
        raise bad_request(
            f"With this model, '{constraint.param}' and 'tools' cannot be used together. Leave one "
            "of them out, or set tool_choice to 'none' or 'required'.",
            constraint.param,
        )
    content_schema = orjson.loads(constraint.text) if is_either else None
    return await constrain(use, form, compile_lark, content_schema)


def _encode(tokenizer: TextTokenizer, params: ChatRequest, use: ToolUse | None) -> list[int]:
    messages, tools = template_input(tokenizer.tool_template_source, params.messages, use)
    return tokenizer.encode_chat(messages, chat_options(params), tools=tools)


def _chunk(
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
