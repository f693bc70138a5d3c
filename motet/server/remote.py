"""Commands that talk to a running server: `motet adapters …` and `motet complete`.

Owns: these commands. They use the public HTTP API and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from motet.server.remote_http import (
    DEFAULT_URL,
    AdminKeyOption,
    ApiKeyOption,
    RemoteError,
    UrlOption,
    opened,
    request_text,
)


def list_adapters(url: UrlOption = DEFAULT_URL, api_key: AdminKeyOption = None) -> None:
    """List the adapters of a running server. What has not been used yet has no rank and digest."""
    models = json.loads(_request(url, "/v1/models", api_key))["data"]
    table = Table("adapter", "rank", "pages", "pinned", "digest", "path")
    for model in models:
        if model["parent"] is not None:
            table.add_row(*_row(model))
    console = Console()
    console.print(f"base model: {models[0]['id']}")
    console.print(table if table.row_count else "there are no adapters")


def load_adapter(
    name: Annotated[str, typer.Argument(help="Name that requests will use.")],
    path: Annotated[str, typer.Argument(help="Directory of the adapter, on the server.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the adapter that has this name.")
    ] = False,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="Keep it on the device, whether or not it is used.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Load an adapter into a running server."""
    # Where the server runs elsewhere, the path is not known here and goes as it is.
    full_path = str(Path(path).absolute()) if Path(path).is_dir() else path
    body = {"lora_name": name, "lora_path": full_path, "load_inplace": replace}
    if pinned:  # else a replacement is pinned if what it replaces is
        body["pinned"] = True
    typer.echo(_request(url, "/v1/load_lora_adapter", admin_key, body))


def unload_adapter(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Unload an adapter from a running server."""
    body = {"lora_name": name}
    typer.echo(_request(url, "/v1/unload_lora_adapter", admin_key, body))


def pin_adapter(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Keep an adapter on the device of a running server, whether or not it is used."""
    _request(url, f"/admin/v1/adapters/{quote(name)}:pin", admin_key, {})
    typer.echo(f"Success: LoRA adapter '{name}' is pinned.")


def unpin_adapter(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Let a pinned adapter be evicted again when it is not used."""
    _request(url, f"/admin/v1/adapters/{quote(name)}:unpin", admin_key, {})
    typer.echo(f"Success: LoRA adapter '{name}' is not pinned.")


def complete(
    prompt: Annotated[str, typer.Argument(help="Text to complete.")],
    model: Annotated[
        str | None, typer.Option(help="Base model or adapter. [default: the base model]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Complete a text on a running server, printing it as it comes."""
    if model is None:
        model = json.loads(_request(url, "/v1/models", api_key))["data"][0]["id"]
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
    }
    with _errors_end_the_program(), opened(url, "/v1/completions", api_key, body) as answer:
        for line in answer:
            _print_event(line.decode().rstrip())
    typer.echo()


def _row(model: dict[str, Any]) -> list[str]:
    unread = model["digest"] is None
    return [
        model["id"],
        "" if unread else str(model["max_rank"]),
        "" if unread else str(model["num_pages"]),
        "yes" if model["pinned"] else "",
        "" if unread else model["digest"][:12],
        model["root"],
    ]


def _print_event(line: str) -> None:
    data = line.removeprefix("data: ")
    if not line.startswith("data: ") or data == "[DONE]":
        return
    event = json.loads(data)
    if "error" in event:
        typer.echo()
        _fail(event["error"]["message"])
    for choice in event["choices"]:
        typer.echo(choice["text"], nl=False)


def _request(url: str, path: str, key: str | None, body: dict[str, Any] | None = None) -> str:
    with _errors_end_the_program():
        return request_text(url, path, key, body)


@contextmanager
def _errors_end_the_program() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)
