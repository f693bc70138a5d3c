"""Starting and ending a server: socket, engine, adapters, HTTP, and back.

Owns: the order of these.
Does not know: the command line (`cli.py`), the routes (`app.py`), and what a signal does
(`http_server.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import structlog
from rich.console import Console
from uvicorn.loops.auto import auto_loop_factory

from motet.core.errors import ConfigError, MotetError
from motet.server.adapter_dir import AdapterDirectory
from motet.server.app import create_app
from motet.server.banner import print_banner
from motet.server.config import ServeConfig
from motet.server.drain import Drain, shutting_down
from motet.server.engine_client import ENGINE_COMMAND, EngineClient
from motet.server.http_server import HttpServer
from motet.server.logs import configure_logging, log_loop_error
from motet.server.loop_lag import watch_loop_lag
from motet.server.metrics import Metrics
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.server.registry import AdapterRegistry
from motet.server.tokenizer import TextTokenizer
from motet.server.tracing import OtlpTracer

_log = structlog.get_logger()


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
) -> int:
    """Serve until a signal (or `Started.stop`), then drain and end the engine.

    Args:
        on_started: called once, when requests are taken.
        engine_command: the engine's program; tests give another.

    Returns:
        The exit status: 0, or 128 + its number if a second signal cut the drain short.

    Raises:
        MotetError: the address is taken, the model or a static adapter cannot be loaded.
    """
    asyncio.get_running_loop().set_exception_handler(log_loop_error)
    with _bound_socket(config) as listener:  # a taken port is noticed before a model is loaded
        tracer = OtlpTracer.to_endpoint(config.otlp_endpoint) if config.otlp_endpoint else None
        model_dir = await asyncio.to_thread(model_dir_for, config.engine.model)
        name = config.engine.model_name or _default_name(config.engine.model)
        engine_config = msgspec.structs.replace(
            config.engine, model=str(model_dir), model_name=name
        )
        directory = _adapter_directory(config)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_dir, model_dir)
        client = EngineClient(engine_config, engine_command, config.engine_timeout_s)
        try:
            await client.start()
            registry = AdapterRegistry(client, name, config.allowed_roots, directory)
            await load_static_adapters(config, registry)
            await registry.names.name_directory()
            drain = Drain(config.drain_timeout_s)
            metrics = Metrics()
            app = create_app(config, client, registry, tokenizer, metrics, tracer, drain)
            http = HttpServer(app, drain, lambda: client.give_up(shutting_down()))
            lag_watch = asyncio.create_task(watch_loop_lag(metrics.observe_loop_lag))
            await _serve_http(http, listener, client, registry, on_started)
            lag_watch.cancel()
            return 0 if http.forced_by is None else 128 + http.forced_by
        finally:
            await client.close()
            if tracer is not None:
                await tracer.close()


async def load_static_adapters(config: ServeConfig, registry: AdapterRegistry) -> None:
    """Load what `--adapter` gives, in that order. Raises MotetError with the first that fails."""
    for name, path in config.adapters:
        try:
            await registry.load_static(name, path)
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


def _default_name(model: str | None) -> str:
    """The last part of what was asked for: a cached model's directory has a longer name."""
    if model is None:
        return EMBEDDED_MODEL_NAME
    return Path(model).absolute().name.removesuffix(".gguf")


async def _serve_http(
    http: HttpServer,
    listener: socket.socket,
    client: EngineClient,
    registry: AdapterRegistry,
    on_started: Callable[[Started], None],
) -> None:
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


def run(config: ServeConfig) -> int:
    """`motet serve`: serve in this thread until a signal. Returns and raises as `serve`."""
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
        return runner.run(serve(config, on_started=announce))
