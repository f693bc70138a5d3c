"""`motet serve`: its options, and what they become.

Owns: the options, their help, and the errors in them.
Does not know: how anything is served (`run.py`, which is imported only when the command runs).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError, MotetError
from motet.server.config import ServeConfig, parse_size_bytes

_WHAT = "What to serve"
_ADAPTERS = "Adapters"
_HTTP = "Address and keys"
_LIMITS = "Limits"
_ENGINE = "Engine"


def _fail(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise ConfigError(f"--adapter {text!r} should be NAME=PATH.", param="adapter")
    return name, Path(path)


def _default_state_dir(port: int) -> Path | None:
    """One for each port that is known beforehand, as the XDG base directories have it."""
    if port == 0:
        return None
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "motet" / str(port)


def _optional_bytes(size: str | None) -> int | None:
    return None if size is None else parse_size_bytes(size)


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A Hugging Face directory, a hub id, or a .gguf file. Without it: a small "
            "built-in model (SmolLM2-135M), fetched once.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            help="Name of the base model in requests.",
            show_default="the last part of MODEL",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Longest prompt and answer together.",
            show_default="the model's own",
            metavar="TOKENS",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="An adapter to load before requests are taken; may be repeated.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    adapter_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Serve every adapter in this directory under its folder's name. Each is loaded "
            "when a request first names it, also if it is added later.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    watch_adapter_dir: Annotated[
        bool,
        typer.Option(
            "--watch-adapter-dir",
            help="Follow --adapter-dir: a folder that changes becomes a new version, one that "
            "goes is drained. Needs motet[watch].",
            rich_help_panel=_ADAPTERS,
        ),
    ] = False,
    adapter_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="A directory below which POST /v1/load_lora_adapter may read; may be repeated.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    allow_hub_org: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORG",
            help="An organisation on the Hugging Face Hub that adapters may be loaded from; may "
            "be repeated.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    allow_bucket: Annotated[
        list[str] | None,
        typer.Option(
            metavar="s3://BUCKET/PREFIX",
            help="Where in S3 adapters may be loaded from; may be repeated. Needs motet[s3].",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the versions, aliases and pins of adapters are kept over restarts.",
            show_default="$XDG_STATE_HOME/motet/PORT; nothing is kept with --port 0",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Anything but a loopback address needs a key.",
            rich_help_panel=_HTTP,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="0 takes any free port.", rich_help_panel=_HTTP
        ),
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="MOTET_API_KEY",
            help="Key for /v1 and /metrics; also for managing adapters if there is no admin key.",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            envvar="MOTET_ADMIN_KEY",
            help="Key for managing adapters and looking into memory, and for all else.",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="More keys, with tenants, adapters and limits of their own; `motet keys` writes "
            "it. What changes in it counts within a second.",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which this server may be called (the Host header); may be repeated.",
            show_default="any with keys, localhost without",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    admin_host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="With --admin-port: have /admin and the loading of adapters answer here alone. "
            "Or unix:PATH, a socket that only this user may use.",
            show_default="127.0.0.1",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="See --admin-host.",
            show_default="those routes are with all others",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    max_queued: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SEQUENCES",
            help="Most that wait for their first token; further requests get a 503.",
            show_default="4 x --max-running",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_queue_time: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Longest wait for a first token; after it a request gets a 504.",
            rich_help_panel=_LIMITS,
        ),
    ] = 600.0,
    max_request_time: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Longest time that a request may take; with the header x-request-timeout one "
            "asks for less.",
            rich_help_panel=_LIMITS,
        ),
    ] = 3600.0,
    lenient_params: Annotated[
        bool,
        typer.Option(
            "--lenient-params",
            help="Ignore request parameters that nobody knows, rather than refuse them; the header "
            "x-ignored-params names them. What would change the answer is still refused.",
            rich_help_panel=_HTTP,
        ),
    ] = False,
    drain_timeout: Annotated[
        int,
        typer.Option(
            min=0,
            help="How long running requests may go on after SIGTERM.",
            metavar="SECONDS",
            rich_help_panel=_HTTP,
        ),
    ] = 30,
    sse_keep_alive: Annotated[
        int,
        typer.Option(
            min=0,
            help="How long a stream may be silent before a comment is sent; 0 is for ever.",
            metavar="SECONDS",
            rich_help_panel=_HTTP,
        ),
    ] = 15,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenTelemetry collector, such as http://localhost:4318, that gets a span of "
            "each generation request. Needs the extra motet[otel].",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    engine_timeout: Annotated[
        int,
        typer.Option(
            min=1,
            help="An engine that answers nothing for so long is started again. It answers between "
            "steps.",
            metavar="SECONDS",
            rich_help_panel=_ENGINE,
        ),
    ] = 120,
    pool_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of the page pool for KV cache and adapters, such as 2GiB.",
            show_default="a share of what is free",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    host_adapter_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory for copies of adapters, ready to be paged in, such as 8GiB.",
            show_default="a share of what is free",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    no_prefix_cache: Annotated[
        bool,
        typer.Option(
            "--no-prefix-cache",
            help="Compute every prompt anew, even if it begins like an earlier one.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    share_prefix_cache: Annotated[
        bool,
        typer.Option(
            "--share-prefix-cache",
            help="Let requests with different keys share cached prefixes. Answers stay the same, "
            "but their speed tells what others have asked.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    no_cuda_graphs: Annotated[
        bool,
        typer.Option(
            "--no-cuda-graphs",
            help="On a GPU, launch every kernel of a decode step by itself: slower, but errors "
            "and profiles name the kernel.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    eviction_policy: Annotated[
        Literal["saving", "lru"],
        typer.Option(
            help="What makes room in a full pool: what saves least for its pages, or, for "
            "comparison, what was used longest ago.",
            rich_help_panel=_ENGINE,
        ),
    ] = EngineConfig().eviction_policy,
    page_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="KV cache in a page.",
            metavar="TOKENS",
            show_default="chosen from the model",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    max_step_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens that one step computes at most.", rich_help_panel=_ENGINE),
    ] = EngineConfig().max_step_tokens,
    max_running: Annotated[
        int,
        typer.Option(min=1, metavar="SEQUENCES", help="Most in a batch.", rich_help_panel=_ENGINE),
    ] = EngineConfig().max_running,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16.",
            show_default="float32 on a CPU, else the model's own",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="How a CPU stores the matrices: float32, bfloat16 or int8.",
            show_default="as --dtype",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda.",
            show_default="cuda where there is a GPU",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of the engine.",
            metavar="N",
            show_default="one per usable core",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
) -> None:
    """Serve a base model and its adapters behind the OpenAI API."""
    try:
        config = ServeConfig(
            engine=EngineConfig(
                model=model,
                model_name=served_model_name,
                device=device,
                dtype=dtype,
                weights=weights,
                pool_memory_bytes=_optional_bytes(pool_memory),
                host_adapter_bytes=_optional_bytes(host_adapter_memory),
                prefix_cache=not no_prefix_cache,
                cuda_graphs=not no_cuda_graphs,
                eviction_policy=eviction_policy,
                page_size=page_size,
                max_model_len=max_model_len,
                max_step_tokens=max_step_tokens,
                max_running=max_running,
                num_threads=threads,
            ),
            host=host,
            port=port,
            adapters=tuple(_named_path(text) for text in adapter or []),
            adapter_dir=adapter_dir,
            watch_adapter_dir=watch_adapter_dir,
            adapter_roots=tuple(adapter_root or []),
            hub_orgs=tuple(allow_hub_org or []),
            buckets=tuple(allow_bucket or []),
            state_dir=state_dir or _default_state_dir(port),
            api_key=api_key,
            admin_key=admin_key,
            keys_file=keys_file,
            allowed_hosts=tuple(allowed_host or []),
            admin_host=admin_host,
            admin_port=admin_port,
            max_queued=max_queued,
            max_queue_time_s=max_queue_time,
            max_request_time_s=max_request_time,
            share_prefix_cache=share_prefix_cache,
            lenient_parameters=lenient_params,
            drain_timeout_s=drain_timeout,
            sse_keep_alive_s=sse_keep_alive or None,
            engine_timeout_s=engine_timeout,
            otlp_endpoint=otlp_endpoint,
        )
        from motet.server.run import run

        status = run(config)
    except MotetError as error:
        _fail(error.message)
    raise typer.Exit(status)
