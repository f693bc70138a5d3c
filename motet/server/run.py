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

from motet.core.errors import ConfigError, MotetError
from motet.server.adapter_admin import AdapterAdmin
from motet.server.adapter_dir import AdapterDirectory
from motet.server.app import create_app
from motet.server.banner import print_banner
from motet.server.config import ServeConfig
from motet.server.downloads import Downloads
from motet.server.engine_client import ENGINE_COMMAND, EngineClient
from motet.server.http_protocol import BoundedHttpProtocol
from motet.server.logs import configure_logging
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.server.registry import AdapterRegistry
from motet.server.registry_store import RegistryStore
from motet.server.sources import Sources
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
    with _bound_socket(config) as listener, _opened_store(config) as store:
        model_dir = await asyncio.to_thread(model_dir_for, config.engine.model)
        name = config.engine.model_name or _default_name(config.engine.model)
        engine_config = msgspec.structs.replace(
            config.engine, model=str(model_dir), model_name=name
        )
        directory = _adapter_directory(config)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_dir, model_dir)
        client = EngineClient(engine_config, engine_command)
        try:
            await client.start()
            registry = AdapterRegistry(client, name, config.allowed_roots, directory, store)
            downloads = _downloads(config)
            sources = Sources(config.allowed_roots, config.hub_orgs, config.buckets, downloads)
            admin = AdapterAdmin.over(client, registry, sources)
            try:
                await registry.records.restore()
                if downloads is not None:
                    await asyncio.to_thread(downloads.sweep, registry.catalogue.paths())
                await load_static_adapters(config, admin)
                await registry.names.name_directory()
                await registry.load_required()
                app = create_app(config, client, registry, admin, tokenizer)
                await _serve_http(config, app, listener, client, registry, on_started)
            finally:
                admin.close()
        finally:
            await client.close()


async def load_static_adapters(config: ServeConfig, admin: AdapterAdmin) -> None:
    """Load what `--adapter` gives, in that order. Raises MotetError with the first that fails."""
    for name, path in config.adapters:
        try:
            await admin.deployments.load_static(name, path)
        except MotetError as error:
            raise MotetError(
                f"The adapter {name} at {path} cannot be loaded: {error.message}",
                code=error.code,
                param=error.param,
            ) from error


def _adapter_directory(config: ServeConfig) -> AdapterDirectory | None:
    if config.adapter_dir is None:
        return None
    return AdapterDirectory(config.adapter_dir, config.allowed_roots)


@contextlib.contextmanager
def _opened_store(config: ServeConfig) -> Iterator[RegistryStore | None]:
    if config.state_dir is None:
        yield None
        return
    with contextlib.closing(RegistryStore(config.state_dir)) as store:
        yield store


def _downloads(config: ServeConfig) -> Downloads | None:
    return (
        None if config.state_dir is None else Downloads(config.state_dir.absolute() / "downloads")
    )


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
