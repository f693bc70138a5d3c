"""`motet complete`: a text, continued by a running server.

Owns: this command. It uses the public HTTP API and nothing else.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Annotated

import typer

from motet.server.remote_http import (
    DEFAULT_URL,
    ApiKeyOption,
    UrlOption,
    errors_end_the_program,
    fail,
    opened,
    send,
)


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
        model = json.loads(send(url, "/v1/models", api_key))["data"][0]["id"]
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
    }
    with errors_end_the_program(), opened(url, "/v1/completions", api_key, body) as answer:
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
        fail(event["error"]["message"])
    for choice in event["choices"]:
        text = choice["text"]
        typer.echo(_harmless(text) if sys.stdout.isatty() else text, nl=False)


def _harmless(text: str) -> str:
    """Text without control characters: a terminal obeys them, and a model can say any."""
    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) == "Cc" and char not in "\n\t" else char
        for char in text
    )
