"""Sends one request to a server, reads its streamed answer, and writes down what came.

Owns: connections, the time limit, what an answer may cost, and what each way to fail is called.
Does not know: when requests are sent (`play.py`), and what they ask.

Whatever a server does becomes a record. It can make the client neither hang (there is a time limit
for each request) nor fill its memory (there is a bound on the bytes of an answer, and nothing is
decompressed).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx2

from motet.bench.journal import Journal
from motet.bench.record import RequestRecord
from motet.bench.refusal import read_refusal
from motet.bench.sse import StreamError, StreamReader
from motet.bench.target import Target, authorization

INTERRUPTED = "interrupted"

# Shorter than servers keep idle connections, or some would be closed as a request is sent on them.
_KEEPALIVE_S = 2.0
_MAX_KEPT_CONNECTIONS = 1024

# A chunk of an answer takes a few hundred bytes for a token.
_MAX_BYTES_PER_TOKEN = 2 << 10
_MAX_BYTES_BESIDE = 64 << 10

_TAIL_S = 1.0

_MAX_CODE_CHARS = 80
_MAX_MESSAGE_CHARS = 400
_MAX_MESSAGES = 20


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that is ready to be sent.

    Attributes:
        index: of the request in the workload.
        adapter, tenant: as the workload calls them.
        model: the name that is asked for.
        body: JSON.
        num_output_tokens: as many as are asked for.
    """

    index: int
    adapter: str | None
    tenant: str | None
    model: str
    body: bytes
    num_output_tokens: int


@dataclass(kw_only=True)
class _Exchange:
    """What has come of a request so far; `error` is None from the moment when all has."""

    reader: StreamReader
    status: int | None = None
    error: str | None = INTERRUPTED
    retry_after_s: float | None = None
    ended_s: float | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0


class Client:
    """Connections to one server: for each request one that is free, or a new one.

    There is no bound on them, for in an open loop it would keep requests back.

    Args:
        target: the server.
        limit_s: the longest that a request may take; then it is given up.
        now_s: seconds from the start of the run; the records' times are by it.

    Attributes:
        messages: what there is to say of errors, by their codes.
    """

    def __init__(self, target: Target, *, limit_s: float, now_s: Callable[[], float]) -> None:
        self.messages: dict[str, str] = {}
        self._target = target
        self._limit_s = limit_s
        self._now_s = now_s
        self._http = httpx2.AsyncClient(
            base_url=target.root,
            timeout=None,
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=_MAX_KEPT_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            trust_env=False,
        )

    async def send(self, asked: Asked, due_s: float, journal: Journal) -> None:
        """Ask, read the answer to its end, and note what became of it, whatever it is.

        Args:
            due_s: when it was to be sent, from the start. Latencies count from then, so that a
                client that is late does not make its server look faster.
        """
        journal.note_sent()
        exchange = _Exchange(reader=StreamReader(0.0, self._now_s))
        try:
            async with asyncio.timeout(self._limit_s):
                await self._converse(asked, exchange, due_s, journal)
        except TimeoutError:
            self._fail(exchange, "timeout", f"no whole answer within {self._limit_s:g} s")
        except StreamError as error:
            self._fail(exchange, error.code, str(error))
        except Exception as error:
            # Mostly httpx2's, though what lies below it lets others through. None ends the run.
            self._fail(exchange, type(error).__name__, str(error))
        finally:
            journal.note_ended(self._record(asked, exchange, due_s))

    async def _converse(
        self, asked: Asked, exchange: _Exchange, due_s: float, journal: Journal
    ) -> None:
        async with self._http.stream(
            "POST",
            self._target.endpoint.path,
            content=asked.body,
            headers=authorization(self._target.key_of(asked.tenant)),
        ) as response:
            exchange.status = response.status_code
            if response.status_code != httpx2.codes.OK:
                refusal = await read_refusal(response)
                exchange.retry_after_s = refusal.retry_after_s
                self._fail(exchange, refusal.code, refusal.message)
                return
            parts = response.aiter_raw()
            await self._read(parts, asked, exchange.reader, due_s, journal)
            self._finish(asked, exchange)
            # What comes after the end is of no interest, but its connection can be used again.
            with contextlib.suppress(TimeoutError, httpx2.HTTPError):
                async with asyncio.timeout(_TAIL_S):
                    async for _ in parts:
                        pass

    async def _read(
        self,
        parts: AsyncIterator[bytes],
        asked: Asked,
        reader: StreamReader,
        due_s: float,
        journal: Journal,
    ) -> None:
        num_bytes_left = _MAX_BYTES_BESIDE + asked.num_output_tokens * _MAX_BYTES_PER_TOKEN
        begun = b""
        async for part in parts:
            num_bytes_left -= len(part)
            if num_bytes_left < 0:
                raise StreamError("the answer is far too long", code="too_long")
            *lines, begun = (begun + part).split(b"\n")
            num_before = len(reader.piece_times_s)
            has_ended = any(map(reader.feed, lines))
            num_now = len(reader.piece_times_s)
            journal.note_pieces(num_now - num_before)
            if num_before == 0 and num_now > 0:
                journal.note_ttft(reader.piece_times_s[0] - due_s)
            if has_ended:
                return

    def _finish(self, asked: Asked, exchange: _Exchange) -> None:
        """The stream has ended: it may be whole. Raises StreamError if it is not."""
        stream = exchange.reader.result()
        exchange.ended_s = stream.total_s
        exchange.num_prompt_tokens = stream.num_prompt_tokens
        exchange.num_cached_tokens = stream.num_cached_tokens
        exchange.num_output_tokens = stream.num_output_tokens
        if self._target.exact_length and stream.num_output_tokens != asked.num_output_tokens:
            raise StreamError(
                f"{stream.num_output_tokens} tokens came and {asked.num_output_tokens} were asked "
                "for; the server may not know ignore_eos",
                code="wrong_length",
            )
        exchange.error = None

    def _fail(self, exchange: _Exchange, code: str, message: str) -> None:
        exchange.error = self._shown(code)[:_MAX_CODE_CHARS]
        if len(self.messages) < _MAX_MESSAGES:
            self.messages.setdefault(exchange.error, self._shown(message)[:_MAX_MESSAGE_CHARS])

    def _shown(self, text: str) -> str:
        """What a server says, without the keys that it may repeat, and harmless to a terminal."""
        for secret in self._target.secrets:
            text = text.replace(secret, "…")
        return "".join(char if char.isprintable() else " " for char in text)

    def _record(self, asked: Asked, exchange: _Exchange, due_s: float) -> RequestRecord:
        return RequestRecord(
            index=asked.index,
            adapter=asked.adapter,
            model=asked.model,
            tenant=asked.tenant,
            sent_s=due_s,
            piece_times_s=exchange.reader.piece_times_s,
            ended_s=self._now_s() if exchange.ended_s is None else exchange.ended_s,
            num_prompt_tokens=exchange.num_prompt_tokens,
            num_cached_tokens=exchange.num_cached_tokens,
            num_output_tokens=exchange.num_output_tokens,
            status=exchange.status,
            error=exchange.error,
            retry_after_s=exchange.retry_after_s,
        )

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
