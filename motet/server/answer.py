"""From a running generation to a response, for both endpoints.

Owns: when the status is decided, the order of events in a stream, and the whole answer's text.
Does not know: the JSON of either endpoint (`completions.py` and `chat.py` each give a format).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.choice import Delta
from motet.server.generate import Generation
from motet.server.protocol import GenerationParameters
from motet.server.replies import EventFormat, EventStream, PlainEvents, unless_client_leaves
from motet.server.services import services_of

Json = dict[str, Any]


class AnswerFormat(Protocol):
    """The JSON of one endpoint."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        """A choice of an answer that is sent as a whole, from all that there is of it."""
        ...

    def whole_fields(self, deltas: Sequence[Delta]) -> Json:
        """What the answer says beside its choices, from all that there is of the first one."""
        ...

    def first_chunk_fields(self) -> Json:
        """What the first chunk says beside its choices."""
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

    Raises:
        MotetError: the engine failed, or the client left, before there was anything to send.
    """
    if params.stream:
        return await stream_answer(request, params, generation, form, PlainEvents())
    body = await whole_answer(request, params, generation, form)
    return Response(orjson.dumps(body), media_type="application/json")


async def whole_answer(
    request: Request, params: GenerationParameters, generation: Generation, form: AnswerFormat
) -> Json:
    """The body of an answer that is sent as a whole. Closes the generation; raises as `answer`."""
    frame = _frame(generation, form)
    try:
        return await unless_client_leaves(request.receive, _whole(params, generation, form, frame))
    finally:
        generation.close()


async def stream_answer(
    request: Request,
    params: GenerationParameters,
    generation: Generation,
    form: AnswerFormat,
    events: EventFormat,
) -> EventStream:
    """A stream of the chunks, as `events` writes them. Closes the generation; raises as `answer`.

    The status is sent only after the first piece has come, so whatever fails before it has a
    proper status; but no later than the first keep-alive, for a client cannot tell a server
    that says nothing from one that is gone.
    """
    keep_alive_s = services_of(request).config.sse_keep_alive_s
    deltas = generation.deltas()
    first = asyncio.create_task(_next(deltas))

    def close() -> None:
        first.cancel()
        generation.close()

    try:
        await unless_client_leaves(request.receive, asyncio.wait({first}, timeout=keep_alive_s))
        if first.done():
            first.result()  # raises what has a status of its own
    except BaseException:
        close()
        raise
    frame = _frame(generation, form)
    chunks = _events(params, generation, form, frame, first, deltas)
    return EventStream(chunks, close, form=events, keep_alive_s=keep_alive_s)


def _frame(generation: Generation, form: AnswerFormat) -> Json:
    """What is the same in all chunks."""
    return {"id": f"{form.id_prefix}-{generation.id}", "created": int(time.time())}


async def _next(deltas: AsyncIterator[Delta]) -> Delta:
    return await anext(deltas)


async def _whole(
    params: GenerationParameters, generation: Generation, form: AnswerFormat, frame: Json
) -> Json:
    choices: list[list[Delta]] = [[] for _ in range(generation.num_choices)]
    async for delta in generation.deltas():
        choices[delta.choice].append(delta)
    best = [choices[place] for place in generation.best(params.n)]
    usage = generation.usage.as_json()

    def body() -> Json:
        return {
            **frame,
            "object": form.whole_object,
            "model": params.model,
            "choices": [form.whole_choice(index, deltas) for index, deltas in enumerate(best)],
            "usage": usage,
            **form.whole_fields(best[0]),
        }

    if params.num_prompt_logprobs is None:
        return body()
    # In a thread, for a prompt may be long, and must not hold up everybody's tokens.
    return await asyncio.to_thread(body)


async def _events(
    params: GenerationParameters,
    generation: Generation,
    form: AnswerFormat,
    frame: Json,
    first: asyncio.Task[Delta],
    rest: AsyncIterator[Delta],
) -> AsyncIterator[Json]:
    head = {**frame, "object": form.chunk_object, "model": params.model}

    def chunk(choices: list[Json]) -> Json:
        if params.continuous_usage:
            return {**head, "choices": choices, "usage": generation.usage.as_json()}
        # With include_usage the key is in every chunk, null except in the last.
        usage = {"usage": None} if params.include_usage else {}
        return {**head, "choices": choices, **usage}

    first_delta = await first
    fields = form.first_chunk_fields()  # they go with whichever chunk is the first
    for choice in form.first_chunk_choices(generation.num_choices):
        yield {**chunk([choice]), **fields}
        fields = {}
    for choice in await _chunk_choices(form, first_delta):
        yield {**chunk([choice]), **fields}
        fields = {}
    async for delta in rest:
        for choice in await _chunk_choices(form, delta):
            yield chunk([choice])
    if params.include_usage:
        yield {**head, "choices": [], "usage": generation.usage.as_json()}


async def _chunk_choices(form: AnswerFormat, delta: Delta) -> list[Json]:
    if delta.prompt_logprobs is None:
        return form.chunk_choices(delta)
    # In a thread, for a prompt may be long, and must not hold up everybody's tokens.
    return await asyncio.to_thread(form.chunk_choices, delta)
