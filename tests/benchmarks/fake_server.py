"""A stand-in for the server: the endpoints that the benchmarks' clients use, without a model.

Answers `delay_s` late, and one word at a time; the model "broken" breaks its streams off with an
error, and "busy" has no room. Started with `running`, in a thread.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

WORDS = ("many ", "voices ", "over ", "one ", "bass ", "line")


@dataclass
class FakeServer:
    """What it serves, and what it was asked.

    Attributes:
        models: names that it has; "broken" and "busy" may be among them.
        api_key: refuse requests without it.
        is_healthy: what /health says.
        num_cached_tokens: what /v1/completions says of each prompt.
        asked: how often each model was asked.
        bodies: every request body.
        asked_at_s: when they came, by `time.monotonic()`.
    """

    models: tuple[str, ...]
    api_key: str | None = None
    is_healthy: bool = True
    delay_s: float = 0.02
    num_cached_tokens: int = 0
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked_at_s: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health")
        async def health() -> Response:
            return Response(status_code=200 if self.is_healthy else 503)

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            if not self._may(request):
                return JSONResponse({"error": {"code": "invalid_api_key"}}, 401)
            return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            if not self._may(request) or body["model"] not in self.models:
                return JSONResponse({"error": {"code": "refused"}}, 404)
            self.asked[body["model"]] += 1
            self.bodies.append(body)
            self.asked_at_s.append(time.monotonic())
            if body["model"] == "busy":
                return JSONResponse({"error": {"code": "overloaded"}}, 503, {"Retry-After": "1"})
            return StreamingResponse(self._stream(body["model"]), media_type="text/event-stream")

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            if not self._may(request) or body["model"] not in self.models:
                return JSONResponse({"error": {"code": "refused"}}, 404)
            self.asked[body["model"]] += 1
            self.bodies.append(body)
            self.asked_at_s.append(time.monotonic())
            if body["model"] == "busy":
                return JSONResponse({"error": {"code": "overloaded"}}, 503, {"Retry-After": "1"})
            return StreamingResponse(self._complete(body), media_type="text/event-stream")

        return app

    def _may(self, request: Request) -> bool:
        return self.api_key is None or (
            request.headers.get("authorization") == f"Bearer {self.api_key}"
        )

    async def _stream(self, model: str) -> AsyncIterator[str]:
        yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for word in WORDS:
            await asyncio.sleep(self.delay_s)
            if model == "broken":
                yield _event({"error": {"code": "engine_dead", "message": "the engine died"}})
                return
            yield _event({"choices": [{"index": 0, "delta": {"content": word}}]})
        yield _event({"choices": [], "usage": {"completion_tokens": len(WORDS)}})
        yield "data: [DONE]\n\n"

    async def _complete(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """As many words as asked for; the model "short" stops one before."""
        num_words = body["max_tokens"] - (body["model"] == "short")
        for index in range(num_words):
            await asyncio.sleep(self.delay_s)
            if body["model"] == "broken":
                yield _event({"error": {"code": "engine_dead", "message": "the engine died"}})
                return
            reason = "length" if index == num_words - 1 else None
            choice = {"index": 0, "text": WORDS[index % len(WORDS)], "finish_reason": reason}
            yield _event({"choices": [choice]})
        cached = {"cached_tokens": self.num_cached_tokens}
        usage = {"completion_tokens": num_words, "prompt_tokens_details": cached}
        yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


@contextlib.contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """Serve on a free port of loopback until the block ends."""
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(server.app(), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=uvicorn_server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 30
    while not uvicorn_server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    server.port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        uvicorn_server.should_exit = True
        thread.join(30)
