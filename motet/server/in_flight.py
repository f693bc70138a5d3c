"""Who in the API process waits for which answer of the engine's.

Owns: the streams of running requests, and the operations that have not been answered.
Does not know: the socket, nor whether the engine lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from motet.core.errors import AdapterError, MotetError
from motet.core.messages import (
    AdapterLoaded,
    AdapterPinned,
    AdapterRefused,
    EngineFailed,
    EngineReady,
    EngineStats,
    FromEngine,
    GetMemory,
    GetStats,
    LoadAdapter,
    MemoryReport,
    PinAdapter,
    Ping,
    Pong,
    ReleaseAdapter,
    RequestFailed,
    StepOutput,
    ToEngine,
    UnpinAdapter,
)
from motet.server.errors import OverloadedError
from motet.server.first_token_queue import FirstTokenQueue
from motet.server.refusals import RefusalReason
from motet.server.token_stream import TokenStream

Question = LoadAdapter | PinAdapter | GetStats | GetMemory | Ping
Answer = AdapterLoaded | AdapterPinned | AdapterRefused | EngineStats | MemoryReport | Pong
AnswerT = TypeVar("AnswerT", bound=Answer)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Operation:
    question: Question
    answer: asyncio.Future[Answer]


class InFlight:
    """Everything that has been asked of the engine and not been answered.

    Args:
        send: takes a message to the engine.
        queue: is told of first tokens.
    """

    def __init__(self, send: Callable[[ToEngine], None], queue: FirstTokenQueue) -> None:
        self._send = send
        self._queue = queue
        self._operations: dict[str, _Operation] = {}
        self.streams: dict[str, TokenStream] = {}

    async def ask(self, question: Question, kind: type[AnswerT]) -> AnswerT:
        """Send a question and wait for its answer, which is of this kind.

        Whoever gives up waiting holds nothing: what the engine grants afterwards is given back.

        Raises:
            AdapterError: the engine refused.
            MotetError: the engine is not running, or died meanwhile.
        """
        self._send(question)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._operations[question.operation_id] = _Operation(question, future)
        answer = await future
        assert isinstance(answer, kind), f"{type(question).__name__} got {answer}"
        return answer

    def handle(self, message: FromEngine) -> None:
        """Give a message to whoever waits for it. Streams that nobody knows were given up on."""
        match message:
            case StepOutput():
                for output in message.outputs:
                    self._queue.note_output(output.request_id)
                    if stream := self.streams.get(output.request_id):
                        stream.push(output)
            case RequestFailed():
                if stream := self.streams.get(message.request_id):
                    stream.fail(message.request_id, _failure(message))
            case EngineReady() | EngineFailed():
                _log.warning("unexpected message from the engine", kind=type(message).__name__)
            case _:
                self._answer(message)

    def fail_all(self, error: MotetError) -> None:
        """End everything with an error: the engine is dead."""
        for request_id, stream in list(self.streams.items()):
            stream.fail(request_id, error)
        operations, self._operations = self._operations, {}
        for operation in operations.values():
            if not operation.answer.done():
                operation.answer.set_exception(error)

    def _answer(self, message: Answer) -> None:
        operation = self._operations.pop(message.operation_id, None)
        if operation is None:
            _log.warning("unasked answer from the engine", kind=type(message).__name__)
        elif operation.answer.done():  # nobody waits any more
            if undoing := _undoing(operation.question, message):
                self._send(undoing)
        elif isinstance(message, AdapterRefused):
            operation.answer.set_exception(AdapterError(message.message, code=message.code))
        else:
            operation.answer.set_result(message)


def _failure(message: RequestFailed) -> MotetError:
    """Why a request failed, as its client is told. What passes by itself is a policy's refusal."""
    if message.retry_after_s is None:
        return MotetError(message.message, code=message.code)
    return OverloadedError(
        message.message, reason=RefusalReason.POLICY, retry_after_s=message.retry_after_s
    )


def _undoing(question: Question, answer: Answer) -> ToEngine | None:
    """What gives back what an answer granted; None if it granted nothing."""
    match question, answer:
        case LoadAdapter(), AdapterLoaded():
            return ReleaseAdapter(answer.info.digest, question.path)
        case PinAdapter(), AdapterPinned():
            return UnpinAdapter(question.digest)
    return None
