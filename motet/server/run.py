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
from uvicorn.loops.auto import auto_loop_factory

from motet.core.errors import ConfigError
from motet.server.adapter_startup import adapter_directory, opened_store, running_adapters
from motet.server.app import create_app
from motet.server.banner import print_banner
from motet.server.config import ServeConfig
from motet.server.engine_client import ENGINE_COMMAND, EngineClient
from motet.server.http_protocol import BoundedHttpProtocol
from motet.server.logs import configure_logging
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.server.registry import AdapterRegistry
from motet.server.tokenizer import TextTokenizer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """uvicorn, ended by one signal after a drain and by a second one at once.

    Args:
        on_stop: called with the first; it ends what would hold a drain up.
    """

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, before the engine was told to end."""
        loop = asyncio.get_running_loop()
        captured: list[signal.Signals] = []
        with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: none come
            for each in _SIGNALS:
                loop.add_signal_handler(each, self.stop)
                captured.append(each)
        try:
            yield
        finally:
            for each in captured:
                loop.remove_signal_handler(each)

    def stop(self) -> None:
        """Drain and end; when called again, end now."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._on_stop()


class Started:
    """A server that takes requests, as its starter sees it."""

    def __init__(
        self, url: str, http: HttpServer, client: EngineClient, registry: AdapterRegistry
    ) -> None:
        self.url = url
        self.stop = http.stop
        self.client = client
        self.registry = registry


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
        MotetError: the address is taken, the model or a static adapter cannot be loaded.
    """
    # A taken port or a damaged registry is noticed before a model is loaded.
    with _bound_socket(config) as listener, opened_store(config) as store:
        model_dir = await asyncio.to_thread(model_dir_for, config.engine.model)
        name = config.engine.model_name or _default_name(config.engine.model)
        engine_config = msgspec.structs.replace(
            config.engine, model=str(model_dir), model_name=name
        )
        directory = adapter_directory(config)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_dir, model_dir)
        client = EngineClient(engine_config, engine_command)
        try:
            await client.start()
            async with running_adapters(config, client, name, directory, store) as adapters:
                registry, admin = adapters
                app = create_app(config, client, registry, admin, tokenizer)
                await _serve_http(config, app, listener, client, registry, on_started)
        finally:
            await client.close()


def _default_name(model: str | None) -> str:
    """The last part of what was asked for: a cached model's directory has a longer name."""
    if model is None:
        return EMBEDDED_MODEL_NAME
    return Path(model).absolute().name.removesuffix(".gguf")


async def _serve_http(
    config: ServeConfig,
    app: object,
    listener: socket.socket,
    client: EngineClient,
    registry: AdapterRegistry,
    on_started: Callable[[Started], None],
) -> None:
    http = HttpServer(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=config.drain_timeout_s,
        ),
        on_stop=registry.records.events.close,
    )
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    while not http.started and not serving.done():
        await asyncio.sleep(0.01)
    if http.started:
        on_started(Started(url, http, client, registry))
    await serving
    _log.info("stopped", num_aborted=client.num_in_flight)


@contextlib.contextmanager
def _bound_socket(config: ServeConfig) -> Iterator[socket.socket]:
    """A bound socket that does not listen yet: until the server is ready, clients are refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {config.host} port {config.port}: {error.strerror}. Choose another "
            "--host or --port.",
            param="port",
        ) from error
    with listener:
        yield listener


def run(config: ServeConfig) -> None:
    """`motet serve`: serve in this thread until a signal. Raises MotetError as `serve`."""
    configure_logging()
    console = Console()

    def announce(started: Started) -> None:
        print_banner(
            console,
            config,
            started.url,
            started.client.info,
            started.registry.names.base_name,
            started.registry.catalogue.all(),
        )

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(serve(config, on_started=announce))
