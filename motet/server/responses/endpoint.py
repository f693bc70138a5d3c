"""POST /v1/responses: a chat in the words of OpenAI's newer endpoint, without its memory.

Owns: the order of things, and errors in the words of this endpoint.
Does not know: how a chat is answered (`chat.py`), nor the JSON of either.

What comes is translated into a chat's body, what goes out from a chat's answer. So all that a
chat can do, tools and constrained output among it, is done in one place.
"""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.core.errors import MotetError
from motet.server.answer import stream_answer, whole_answer
from motet.server.chat import RunningChat, start_chat
from motet.server.parameters import tell_ignored, without
from motet.server.parsing import parse, read_json_object
from motet.server.responses.events import ResponseEvents
from motet.server.responses.output import whole_response
from motet.server.responses.parameters import (
    drop_idle_response_parameters,
    ignored_response_parameters,
)
from motet.server.responses.protocol import ResponsesRequest
from motet.server.services import services_of

# What a chat calls the fields that it may find at fault.
_OUR_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "messages": "input",
}


async def create_response(request: Request) -> Response:
    """Answer an input that holds the whole conversation."""
    body = await read_json_object(request)
    is_lenient = services_of(request).config.lenient_parameters
    working = ResponsesRequest.model_fields
    ignored = ignored_response_parameters(body, working, is_lenient=is_lenient)
    body = drop_idle_response_parameters(without(body, ignored), working)
    params = parse(ResponsesRequest, body)
    response = await _answer(request, params)
    tell_ignored(response, ignored)
    return response


async def _answer(request: Request, params: ResponsesRequest) -> Response:
    chat = await _start(request, params)
    generation = chat.generation
    if params.stream:
        events = ResponseEvents(params, generation.id)
        return await stream_answer(request, chat.params, generation, chat.form, events)
    answer = await whole_answer(request, chat.params, generation, chat.form)
    response = whole_response(params, generation.id, answer)
    return Response(orjson.dumps(response), media_type="application/json")


async def _start(request: Request, params: ResponsesRequest) -> RunningChat:
    try:
        return await start_chat(request, params.as_chat())
    except MotetError as error:
        raise _in_our_words(error) from None


def _in_our_words(error: MotetError) -> MotetError:
    """The error of a chat, about a field of this endpoint.

    Which of the input's items it was is not said: a chat has other messages than it has items.
    """
    if error.param is None or (ours := _our_name(error.param)) == error.param:
        return error
    message = error.message.replace(f"'{error.param}'", f"'{ours}'")
    return MotetError(message, code=error.code, param=ours)


def _our_name(theirs: str) -> str:
    for name, ours in _OUR_NAMES.items():
        if theirs.startswith(name):
            return ours
    return theirs.replace(".function", "", 1)  # tools are flat here
