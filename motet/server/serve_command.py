"""`motet serve`: its options, and what they become.

Owns: the options' defaults, what they become, and the errors in them.
Does not know: how anything is served (`run.py`, which is imported only when the command runs).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import typer

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError, MotetError
from motet.server import serve_options as options
from motet.server.config import ServeConfig, parse_size_bytes

_ENGINE = EngineConfig()  # its own defaults


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
    model: options.Model = None,
    served_model_name: options.ServedModelName = None,
    max_model_len: options.MaxModelLen = None,
    adapter: options.Adapter = None,
    adapter_dir: options.AdapterDir = None,
    watch_adapter_dir: options.WatchAdapterDir = False,
    adapter_root: options.AdapterRoot = None,
    allow_hub_org: options.AllowHubOrg = None,
    allow_bucket: options.AllowBucket = None,
    state_dir: options.StateDir = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    api_key: options.ApiKey = None,
    admin_key: options.AdminKey = None,
    keys_file: options.KeysFile = None,
    allowed_host: options.AllowedHost = None,
    admin_host: options.AdminHost = None,
    admin_port: options.AdminPort = None,
    max_queued: options.MaxQueued = None,
    max_queue_time: options.MaxQueueTime = 600.0,
    max_request_time: options.MaxRequestTime = 3600.0,
    lenient_params: options.LenientParams = False,
    drain_timeout: options.DrainTimeout = 30,
    sse_keep_alive: options.SseKeepAlive = 15,
    otlp_endpoint: options.OtlpEndpoint = None,
    policy: options.Policy = _ENGINE.policy,
    ttft_slo: options.TtftSlo = _ENGINE.ttft_slo_s,
    cluster_adapters: options.ClusterAdapters = _ENGINE.num_cluster_adapters,
    engine_timeout: options.EngineTimeout = 120,
    pool_memory: options.PoolMemory = None,
    host_adapter_memory: options.HostAdapterMemory = None,
    no_prefix_cache: options.NoPrefixCache = False,
    share_prefix_cache: options.SharePrefixCache = False,
    no_cuda_graphs: options.NoCudaGraphs = False,
    eviction_policy: options.EvictionPolicy = _ENGINE.eviction_policy,
    page_size: options.PageSize = None,
    max_step_tokens: options.MaxStepTokens = _ENGINE.max_step_tokens,
    max_running: options.MaxRunning = _ENGINE.max_running,
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    device: options.Device = None,
    threads: options.Threads = None,
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
                policy=policy,
                ttft_slo_s=ttft_slo,
                num_cluster_adapters=cluster_adapters,
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
