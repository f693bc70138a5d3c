"""Streams completions from a server in one asyncio loop, each at its own time.

Owns: the client, when a request is sent, and the check that its answer is whole.
Does not know: where the requests come from, nor what is made of the times.

Open loop: a request is sent when its time has come, whether or not others have been answered. The
client shares the machine's cores with the server. httpx2 was measured at 0.09 ms of one core for
each token streamed: 1.4 % of a core at 150 tokens per second, for all sides of a comparison alike.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from motet.bench.sse import Stream, StreamError, StreamReader

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What to ask for. Greedy, and end-of-text tokens are ignored: the length is exact."""

    model: str
    prompt: list[int]
    num_output_tokens: int

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": self.prompt,
            "max_tokens": self.num_output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(frozen=True, kw_only=True)
class TimedCompletion:
    """A completion that is to be sent `at_s` after the start."""

    at_s: float
    completion: Completion


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `sent_s` counts from the start of what it was part of."""

    completion: Completion
    sent_s: float
    stream: Stream

    @property
    def piece_times_s(self) -> list[float]:
        """When each piece came, from the same start as `sent_s`."""
        return [self.sent_s + each for each in self.stream.piece_times_s]

    @property
    def end_s(self) -> float:
        """When the stream ended."""
        return self.sent_s + self.stream.total_s


class CompletionError(Exception):
    """A completion failed, was refused, or was not as long as it was asked to be."""


class CompletionClient:
    """Sends completions to one server, each on a connection that is free or a new one.

    Args:
        url: of the server, such as http://127.0.0.1:8000.
    """

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
        # A request may wait in the server's queue for as long as the caller allows.
        self._http = httpx2.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False)
        self._started_s = time.perf_counter()

    async def complete(self, completion: Completion) -> Answer:
        """Stream one completion to its end. Raises CompletionError with the server's message."""
        sent_s = time.perf_counter()
        try:
            stream = await self._stream(completion, sent_s)
        except (httpx2.HTTPError, StreamError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CompletionError(f"A completion of {completion.model} failed: {reason}") from error
        if stream.num_output_tokens != completion.num_output_tokens:
            raise CompletionError(
                f"{completion.model} generated {stream.num_output_tokens} tokens, "
                f"expected {completion.num_output_tokens}."
            )
        return Answer(completion=completion, sent_s=sent_s - self._started_s, stream=stream)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(exc_type, exc, traceback)

    async def _stream(self, completion: Completion, sent_s: float) -> Stream:
        reader = StreamReader(sent_s)
        async with self._http.stream(
            "POST", "/v1/completions", json=completion.as_json()
        ) as response:
            if response.status_code != httpx2.codes.OK:
                content = (await response.aread()).decode(errors="replace")
                raise CompletionError(
                    f"A completion of {completion.model} was answered "
                    f"{response.status_code}: {content}"
                )
            async for line in response.aiter_lines():
                reader.feed(line.encode())
        return reader.result()


def play(url: str, timed: Sequence[TimedCompletion], limit_s: float) -> list[Answer]:
    """Send each completion at its time, and wait for all answers, in the order given.

    Raises:
        CompletionError: any of them failed, with the server's message; the others are dropped.
        TimeoutError: they took longer than `limit_s`, all together.
    """
    return asyncio.run(_play(url, timed, limit_s))


async def _play(url: str, timed: Sequence[TimedCompletion], limit_s: float) -> list[Answer]:
    async with asyncio.timeout(limit_s), CompletionClient(url) as client:
        return await gather_all([asyncio.create_task(_complete_at(client, each)) for each in timed])


async def _complete_at(client: CompletionClient, timed: TimedCompletion) -> Answer:
    await asyncio.sleep(timed.at_s)
    return await client.complete(timed.completion)


async def gather_all(tasks: Sequence[asyncio.Task[ResultT]]) -> list[ResultT]:
    """The results of all tasks; if one fails, the others are cancelled and its error is raised."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
