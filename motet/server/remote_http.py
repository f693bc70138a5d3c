"""HTTP for the commands that talk to a running server.

Owns: the options that say which server, and the requests to it.
Does not know: what is asked, nor how an error is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Annotated, Any
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
    timeout_s: float = _TIMEOUT_S,
) -> str:
    """The text of an answer; a POST if there is a body. Raises RemoteError."""
    with opened(url, path, key, body, timeout_s=timeout_s) as answer:
        return answer.read().decode()


@contextmanager
def opened(
    url: str,
    path: str,
    key: str | None,
    body: dict[str, Any] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[HTTPResponse]:
    """An answer to be read. Raises RemoteError, also within the block when it breaks off."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url + path, data, headers), timeout=timeout_s) as answer:
            yield answer
    except HTTPError as error:
        raise RemoteError(_reason(error), error.code) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise RemoteError(
            f"no answer from {url} ({reason}). Is `motet serve` running there?"
        ) from error


def _reason(error: HTTPError) -> str:
    try:
        message = json.loads(error.read())["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} from {error.url}; is this a Motet server?"
    return str(message)
