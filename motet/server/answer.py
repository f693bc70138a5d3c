"""From a running generation to a response, for both endpoints.

Owns: when the status is decided, the order of events in a stream, and the whole answer's text.
Does not know: the JSON of either endpoint (`completions.py` and `chat.py` each give a format).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.choice import Delta
from motet.server.generate import Generation
from motet.server.protocol import GenerationParameters
from motet.server.replies import EventStream, unless_client_leaves

Json = dict[str, Any]


class AnswerFormat(Protocol):
    """The JSON of one endpoint."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        """A choice of an answer that is sent as a whole, from all that there is of it."""
        ...

    def first_chunk_choices(self, num_choices: int) -> list[Json]:
        """Choices of the chunks that come before any text."""
        ...

    def chunk_choices(self, delta: Delta) -> list[Json]:
        """Choices of the chunks that say `delta`."""
        ...


async def answer(
    request: Request, params: GenerationParameters, generation: Generation, form: AnswerFormat
) -> Response:
    """Answer as the request asked, streamed or whole. Closes the generation in any case.

    A stream's status is sent only after the first piece has come, so whatever fails before it
    has a proper status.

    Raises:
        MotetError: the engine failed, or the client left, before there was anything to send.
    """
    frame = {"id": f"{form.id_prefix}-{generation.id}", "created": int(time.time())}
    try:
        if not params.stream:
            return await unless_client_leaves(
                request.receive, _whole(params, generation, form, frame)
            )
        deltas = generation.deltas()
        first = await unless_client_leaves(request.receive, _next(deltas))
    except BaseException:
        generation.close()
        raise
    return EventStream(_events(params, generation, form, frame, first, deltas), generation.close)


async def _next(deltas: AsyncIterator[Delta]) -> Delta:
    return await anext(deltas)


async def _whole(
    params: GenerationParameters, generation: Generation, form: AnswerFormat, frame: Json
) -> Response:
    choices: list[list[Delta]] = [[] for _ in range(generation.num_choices)]
    async for delta in generation.deltas():
        choices[delta.choice].append(delta)
    generation.close()
    body = {
        **frame,
        "object": form.whole_object,
        "model": params.model,
        "choices": [form.whole_choice(index, deltas) for index, deltas in enumerate(choices)],
        "usage": generation.usage.as_json(),
    }
    return Response(orjson.dumps(body), media_type="application/json")


async def _events(
    params: GenerationParameters,
    generation: Generation,
    form: AnswerFormat,
    frame: Json,
    first: Delta,
    rest: AsyncIterator[Delta],
) -> AsyncIterator[Json]:
    def chunk(choices: list[Json], usage: Json | None) -> Json:
        body = {**frame, "object": form.chunk_object, "model": params.model, "choices": choices}
        # With include_usage the key is in every chunk, null except in the last.
        return {**body, "usage": usage} if params.include_usage else body

    for choice in form.first_chunk_choices(generation.num_choices):
        yield chunk([choice], None)
    for choice in form.chunk_choices(first):
        yield chunk([choice], None)
    async for delta in rest:
        for choice in form.chunk_choices(delta):
            yield chunk([choice], None)
    if params.include_usage:
        yield chunk([], generation.usage.as_json())
