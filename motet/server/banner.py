"""What `motet serve` says when it is ready: what is served, and a line to try it with.

Owns: this text.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from motet.core.messages import EngineReady
from motet.server.adapter import Adapter
from motet.server.config import ServeConfig

_MAX_LISTED = 8


def print_banner(
    console: Console,
    config: ServeConfig,
    url: str,
    admin_url: str | None,
    engine: EngineReady,
    base_name: str,
    adapters: Sequence[Adapter],
) -> None:
    """Print it. Keys are never part of it; a placeholder stands where one is needed.

    Args:
        admin_url: where the admin routes are, if they are on an address of their own.
    """
    pool_gib = engine.num_pages * engine.page_bytes / 2**30
    rows = [
        ("base model", f"{base_name} ({engine.dtype} on {engine.device})"),
        ("adapters", _listed(adapters)),
        (
            "pool",
            f"{pool_gib:.2f} GiB: {engine.num_pages} pages of {engine.page_size} tokens, "
            "shared by KV cache and adapters",
        ),
        ("context", f"{engine.max_model_len} tokens"),
        ("policy", config.engine.policy),
    ]
    if admin_url is not None:
        rows.append(("admin", admin_url))
    header = Text.assemble(("Motet", "bold"), f" is ready at {url}")
    console.print(header, soft_wrap=True)
    for label, value in rows:
        console.print(Text.assemble(f"  {label:<11}", value), soft_wrap=True)
    key = " -H 'Authorization: Bearer YOUR_KEY'" if config.has_keys else ""
    console.print(Text("\nTry it:"), Text(_curl(url, key, base_name)), sep="\n", soft_wrap=True)
    console.print(
        Text("\nEach adapter answers under its own name as the model. List the models:"),
        Text(f"curl {url}/v1/models{key}\n"),
        sep="\n",
        soft_wrap=True,
    )


def _listed(adapters: Sequence[Adapter]) -> str:
    if not adapters:
        return "none yet"
    names = ", ".join(adapter.name for adapter in adapters[:_MAX_LISTED])
    num_more = len(adapters) - _MAX_LISTED
    return f"{names} and {num_more} more" if num_more > 0 else names


def _curl(url: str, key: str, model: str) -> str:
    body = f'{{"model": "{model}", "prompt": "The capital of France is", "max_tokens": 32}}'
    return (
        f"curl {url}/v1/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
    )
