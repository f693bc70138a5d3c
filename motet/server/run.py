"""Starting and ending a server: socket, engine, adapters, HTTP, and back.

Owns: the order of these.
Does not know: the command line (`cli.py`), the routes (`app.py`), and what a signal does
(`http_server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog
from rich.console import Console
from uvicorn.loops.auto import auto_loop_factory

from motet.core.loop_lag import watched_loop_lag
from motet.server.adapter_startup import adapter_directory, opened_store, running_adapters
from motet.server.app import create_apps
from motet.server.auth import Surface
from motet.server.banner import print_banner
from motet.server.config import ServeConfig
from motet.server.drain import Drain, shutting_down
from motet.server.engine_client import ENGINE_COMMAND, EngineClient
from motet.server.file_limits import raise_file_limit
from motet.server.grammar_service import grammar_service
from motet.server.http_server import HttpServer
from motet.server.key_ring import following, open_key_ring
from motet.server.listeners import bound_sockets, url_of
from motet.server.logs import configure_logging, log_loop_error
from motet.server.metrics import Metrics
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.server.registry import AdapterRegistry
from motet.server.services import Services
from motet.server.tokenizer import TextTokenizer
from motet.server.tracing import OtlpTracer

_log = structlog.get_logger()


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
) -> int:
    """Serve until a signal (or `Started.stop`), then drain and end the engine.

    Args:
        on_started: called once, when requests are taken.
        engine_command: the engine's program; tests give another.

    Returns:
        The exit status: 0, or 128 + its number if a second signal cut the drain short.

    Raises:
        MotetError: an address is taken, the file of keys cannot be read, the model or a static
            adapter cannot be loaded.
    """
    asyncio.get_running_loop().set_exception_handler(log_loop_error)
    keys = await open_key_ring(config)
    tracer = OtlpTracer.to_endpoint(config.otlp_endpoint) if config.otlp_endpoint else None
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
        client = EngineClient(
            engine_config,
            engine_command,
            max_queued=config.most_queued,
            timeout_s=config.engine_timeout_s,
        )
        metrics, drain = Metrics(), Drain(config.drain_timeout_s)
        try:
            await client.start()
            vocab_size = client.info.shape.vocab_size
            file = model_dir / "tokenizer.json"
            async with (
                following(keys, config.keys_file),
                watched_loop_lag(metrics.observe_loop_lag),
                grammar_service(file, vocab_size, eos_token_ids) as grammars,
                running_adapters(config, client, name, directory, store) as (registry, admin),
            ):
                services = Services(
                    config, client, registry, admin, tokenizer, grammars, metrics, drain
                )
                http = HttpServer(
                    create_apps(services, keys, tracer),
                    drain,
                    cut_off=lambda: client.give_up(shutting_down()),
                    on_close=registry.records.events.close,
                )
                urls = {surface: url_of(listener) for surface, listener in listeners.items()}
                started = Started(urls, http.stop, client, registry)
                await http.serve(listeners, lambda: on_started(started))
            _log.info("stopped", num_aborted=client.num_in_flight)
            return 0 if http.forced_by is None else 128 + http.forced_by
        finally:
            await client.close()
            if tracer is not None:
                await tracer.close()


def _default_name(model: str | None) -> str:
    """The last part of what was asked for: a cached model's directory has a longer name."""
    if model is None:
        return EMBEDDED_MODEL_NAME
    return Path(model).absolute().name.removesuffix(".gguf")


def run(config: ServeConfig, *, engine_command: Sequence[str] = ENGINE_COMMAND) -> int:
    """`motet serve`: serve in this thread until a signal. Takes, returns and raises as `serve`."""
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
        serving = serve(config, on_started=announce, engine_command=engine_command)
        return runner.run(serving)
