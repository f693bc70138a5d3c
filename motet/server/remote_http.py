"""HTTP for the commands that talk to a running server.

Owns: the options that say which server, the requests to it, and what an error looks like.
Does not know: what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Annotated, Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import typer

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

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 600.0


class RemoteError(Exception):
    """The server refused, or did not answer.

    Attributes:
        status: the HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def request_text(
    url: str,
    path: str,
    key: str | None,
    body: dict[str, Any] | None = None,
    *,
    method: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> str:
    """The text of an answer; a POST if there is a body. Raises RemoteError."""
    with opened(url, path, key, body, method=method, timeout_s=timeout_s) as answer:
        return answer.read().decode()


@contextmanager
def opened(
    url: str,
    path: str,
    key: str | None,
    body: dict[str, Any] | None = None,
    *,
    method: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[HTTPResponse]:
    """An answer to be read. Raises RemoteError, also within the block when it breaks off."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        request = Request(url + path, data, headers, method=method)
        with urlopen(request, timeout=timeout_s) as answer:
            yield answer
    except HTTPError as error:
        raise RemoteError(_reason(error), error.code) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise RemoteError(
            f"no answer from {url} ({reason}). Is `motet serve` running there?"
        ) from error


def send(
    url: str,
    path: str,
    key: str | None,
    body: dict[str, Any] | None = None,
    *,
    method: str | None = None,
) -> str:
    """The text of an answer, for a command that an error ends."""
    with errors_end_the_program():
        return request_text(url, path, key, body, method=method)


@contextmanager
def errors_end_the_program() -> Iterator[None]:
    """A RemoteError within is shown, and is the end."""
    try:
        yield
    except RemoteError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say what went wrong, and end with status 1."""
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)


def _reason(error: HTTPError) -> str:
    try:
        message = json.loads(error.read())["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} from {error.url}; is this a Motet server?"
    return str(message)
