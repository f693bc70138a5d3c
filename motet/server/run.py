"""Starting and ending a server: socket, engine, adapters, HTTP, and back.

Owns: the order of these, and what a signal does.
Does not know: the command line (`cli.py`) and the routes (`app.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import structlog
import uvicorn
from rich.console import Console
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from motet.server.adapter_startup import adapter_directory, opened_store, running_adapters
from motet.server.app import create_apps
from motet.server.auth import Surface
from motet.server.banner import print_banner
from motet.server.config import ServeConfig
from motet.server.engine_client import ENGINE_COMMAND, EngineClient
from motet.server.file_limits import raise_file_limit
from motet.server.grammar_service import grammar_service
from motet.server.http_protocol import BoundedHttpProtocol
from motet.server.key_ring import following, open_key_ring
from motet.server.listeners import bound_sockets, url_of
from motet.server.logs import configure_logging
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.server.registry import AdapterRegistry
from motet.server.tokenizer import TextTokenizer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """uvicorn on one listener, ended by one call after a drain and by a second one at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, before the engine was told to end."""
        yield

    def stop(self) -> None:
        """Drain and end; when called again, end now."""
        self.force_exit = self.should_exit
        self.should_exit = True


@contextlib.contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    captured: list[signal.Signals] = []
    with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: none come
        for each in _SIGNALS:
            loop.add_signal_handler(each, stop)
            captured.append(each)
    try:
        yield
    finally:
        for each in captured:
            loop.remove_signal_handler(each)


class Started:
    """A server that takes requests, as its starter sees it.

    Attributes:
        urls: of each listener.
        stop: drains and ends the server; when called again, ends it now.
    """

    def __init__(
        self,
        urls: dict[Surface, str],
        stop: Callable[[], None],
        client: EngineClient,
        registry: AdapterRegistry,
    ) -> None:
        self.urls = urls
        self.stop = stop
        self.client = client
        self.registry = registry

    @property
    def url(self) -> str:
        """Where requests for text go."""
        return next(url for surface, url in self.urls.items() if surface is not Surface.ADMIN)


async def serve(
    config: ServeConfig,
    *,
    on_started: Callable[[Started], None],
    engine_command: Sequence[str] = ENGINE_COMMAND,
) -> None:
    """Serve until a signal (or `Started.stop`), then drain and end the engine.

    Args:
        on_started: called once, when requests are taken.
        engine_command: the engine's program; tests give another.

    Raises:
        MotetError: an address is taken, the file of keys cannot be read, the model or a static
            adapter cannot be loaded.
    """
    keys = await open_key_ring(config)
    # A taken port or a damaged registry is noticed before a model is loaded.
    with bound_sockets(config) as listeners, opened_store(config) as store:
        model_dir = await asyncio.to_thread(model_dir_for, config.engine.model)
        name = config.engine.model_name or _default_name(config.engine.model)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_dir, model_dir)
        eos_token_ids = tokenizer.eos_token_ids
        engine_config = msgspec.structs.replace(
            config.engine, model=str(model_dir), model_name=name, eos_token_ids=eos_token_ids
        )
        directory = adapter_directory(config)
        client = EngineClient(engine_config, engine_command, config.most_queued)
        try:
            await client.start()
            vocab_size = client.info.shape.vocab_size
            file = model_dir / "tokenizer.json"
            async with (
                following(keys, config.keys_file),
                grammar_service(file, vocab_size, eos_token_ids) as grammars,
                running_adapters(config, client, name, directory, store) as adapters,
            ):
                registry, admin = adapters
                apps = create_apps(config, client, registry, admin, tokenizer, keys, grammars)
                await _serve_http(config, apps, listeners, client, registry, on_started)
        finally:
            await client.close()


def _default_name(model: str | None) -> str:
    """The last part of what was asked for: a cached model's directory has a longer name."""
    if model is None:
        return EMBEDDED_MODEL_NAME
    return Path(model).absolute().name.removesuffix(".gguf")


async def _serve_http(
    config: ServeConfig,
    apps: dict[Surface, ASGIApp],
    listeners: dict[Surface, socket.socket],
    client: EngineClient,
    registry: AdapterRegistry,
    on_started: Callable[[Started], None],
) -> None:
    servers = {surface: _http_server(config, app) for surface, app in apps.items()}
    urls = {surface: url_of(listener) for surface, listener in listeners.items()}

    def stop() -> None:
        registry.records.events.close()  # a drain would wait for those who watch
        for server in servers.values():
            server.stop()

    with _signals_call(stop):
        serving = asyncio.gather(
            *(servers[each].serve(sockets=[listeners[each]]) for each in servers)
        )
        while not all(each.started for each in servers.values()) and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():
            on_started(Started(urls, stop, client, registry))
        await serving
    _log.info("stopped", num_aborted=client.num_in_flight)


def _http_server(config: ServeConfig, app: ASGIApp) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=config.drain_timeout_s,
        )
    )


def run(config: ServeConfig) -> None:
    """`motet serve`: serve in this thread until a signal. Raises MotetError as `serve`."""
    configure_logging()
    raise_file_limit()
    console = Console()

    def announce(started: Started) -> None:
        print_banner(
            console,
            config,
            started.url,
            started.urls.get(Surface.ADMIN),
            started.client.info,
            started.registry.names.base_name,
            started.registry.catalogue.all(),
        )

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(serve(config, on_started=announce))
