"""A server that does to each request what its model's name says: HTTP by hand, in a thread.

Beside the scripts it lists its models, and has `/metrics` and `/tokenize` if it is told to.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Script = Callable[[asyncio.StreamWriter, Body], Awaitable[None]]


@dataclass
class ScriptedServer:
    """What it does, and what it was asked.

    Attributes:
        scripts: by the model's name.
        metrics: what `/metrics` says; None is 404.
        bodies, keys: of each request for a completion: its JSON, and the key that it carried.
    """

    scripts: Mapping[str, Script]
    metrics: str | None = None
    port: int = 0
    bodies: list[Body] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request_line, *lines = head.strip().split("\r\n")
            _, path, _ = request_line.split(" ")
            headers = {name.lower(): value for name, value in (each.split(": ") for each in lines)}
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            await self._answer(writer, path, headers, content)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _answer(
        self, writer: asyncio.StreamWriter, path: str, headers: Mapping[str, str], content: bytes
    ) -> None:
        if path == "/v1/models":
            data = [{"id": name, "parent": "base"} for name in self.scripts]
            await send_json(writer, {"data": [{"id": "base", "parent": None}, *data]})
        elif path == "/tokenize":
            await send_json(writer, {"tokens": [7, 8, 9, 7], "count": 4, "max_model_len": 100})
        elif path == "/metrics" and self.metrics is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.metrics.encode())
        elif path in ("/v1/completions", "/v1/chat/completions"):
            body = json.loads(content)
            self.bodies.append(body)
            self.keys.append(headers.get("authorization"))
            await self.scripts[body["model"]](writer, body)
        else:
            await send_json(writer, {"error": {"message": "no such path"}}, "404 Not Found")


@contextlib.contextmanager
def running(server: ScriptedServer) -> Iterator[ScriptedServer]:
    """Serve on a free port of loopback until the block ends."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    server.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def send_json(writer: asyncio.StreamWriter, value: object, status: str = "200 OK") -> None:
    await send(writer, json.dumps(value).encode(), status)


async def send(writer: asyncio.StreamWriter, content: bytes, status: str, *headers: str) -> None:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await writer.drain()


async def begin(writer: asyncio.StreamWriter) -> None:
    """The head of a stream that ends with its connection."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def send_event(writer: asyncio.StreamWriter, chunk: object) -> None:
    writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await writer.drain()


def text(piece: str) -> Body:
    """A chunk with a piece of text."""
    return {"choices": [{"index": 0, "text": piece, "finish_reason": None}]}


async def whole(writer: asyncio.StreamWriter, body: Body) -> None:
    """As many words as were asked for."""
    await begin(writer)
    count = body["max_tokens"]
    for _ in range(count):
        await send_event(writer, text("la "))
    usage = {"prompt_tokens": 5, "completion_tokens": count}
    await send_event(
        writer, {"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 2}}}
    )
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()
