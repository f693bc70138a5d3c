"""Commands that talk to a running server: `motet adapters …` and `motet complete`.

Owns: these commands. They use the public HTTP API and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer
from rich.console import Console
from rich.table import Table

_TIMEOUT_S = 600

UrlOption = Annotated[
    str, typer.Option(envvar="MOTET_URL", help="Address of the server, without /v1.")
]
ApiKeyOption = Annotated[
    str | None, typer.Option(envvar="MOTET_API_KEY", help="Key, if the server asks for one.")
]
AdminKeyOption = Annotated[
    str | None,
    typer.Option(
        envvar=["MOTET_ADMIN_KEY", "MOTET_API_KEY"], help="Key, if the server asks for one."
    ),
]

_DEFAULT_URL = "http://127.0.0.1:8000"


def list_adapters(url: UrlOption = _DEFAULT_URL, api_key: AdminKeyOption = None) -> None:
    """List the adapters of a running server."""
    models = json.loads(_request(url, "/v1/models", api_key))["data"]
    table = Table("adapter", "rank", "pages", "digest", "path")
    for model in models:
        if model["parent"] is not None:
            table.add_row(
                model["id"],
                str(model["max_rank"]),
                str(model["num_pages"]),
                model["digest"][:12],
                model["root"],
            )
    console = Console()
    console.print(f"base model: {models[0]['id']}")
    console.print(table if table.row_count else "no adapters are loaded")


def load_adapter(
    name: Annotated[str, typer.Argument(help="Name that requests will use.")],
    path: Annotated[str, typer.Argument(help="Directory of the adapter, on the server.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the adapter that has this name.")
    ] = False,
    url: UrlOption = _DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Load an adapter into a running server."""
    # Where the server runs elsewhere, the path is not known here and goes as it is.
    full_path = str(Path(path).absolute()) if Path(path).is_dir() else path
    body = {"lora_name": name, "lora_path": full_path, "load_inplace": replace}
    typer.echo(_request(url, "/v1/load_lora_adapter", admin_key, body))


def unload_adapter(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: UrlOption = _DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Unload an adapter from a running server."""
    body = {"lora_name": name}
    typer.echo(_request(url, "/v1/unload_lora_adapter", admin_key, body))


def complete(
    prompt: Annotated[str, typer.Argument(help="Text to complete.")],
    model: Annotated[
        str | None, typer.Option(help="Base model or adapter. [default: the base model]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    url: UrlOption = _DEFAULT_URL,
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
    with _opened(url, "/v1/completions", api_key, body) as answer:
        for line in answer:
            _print_event(line.decode().rstrip())
    typer.echo()


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
    """The text of an answer; a POST if there is a body."""
    with _opened(url, path, key, body) as answer:
        return answer.read().decode()


@contextmanager
def _opened(
    url: str, path: str, key: str | None, body: dict[str, Any] | None = None
) -> Iterator[HTTPResponse]:
    """An answer that can be read; anything else ends the program with the reason."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url + path, data, headers), timeout=_TIMEOUT_S) as answer:
            yield answer
    except HTTPError as error:
        _fail(_reason(error))
    except (OSError, HTTPException, ValueError) as error:
        _fail(f"no answer from {url} ({error}). Is `motet serve` running there?")


def _reason(error: HTTPError) -> str:
    try:
        message = json.loads(error.read())["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} from {error.url}; is this a Motet server?"
    return str(message)


def _fail(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)
