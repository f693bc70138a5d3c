"""`motet top`: what a running server's memory holds, and how it moves, as it happens.

Owns: this command: when the server is asked, and what happens when it does not answer.
Does not know: how a frame looks (`top_view.py`).
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.live import Live

from motet.server.remote_http import (
    DEFAULT_URL,
    AdminKeyOption,
    RemoteError,
    UrlOption,
    request_text,
)
from motet.server.top_view import Sample, frame

_TIMEOUT_S = 10.0


def top(
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look, and end.")] = False,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Watch the memory of a running server: its pages, its adapters, and what comes and goes."""
    console = Console()
    try:
        sample = _sample(url, admin_key)
    except RemoteError as error:
        _fail(str(error))
    if once:
        console.print(frame(sample, None, url=url, height=console.height))
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(console, sample, interval, url, admin_key)


def _watch(console: Console, sample: Sample, interval_s: float, url: str, key: str | None) -> None:
    """Show frames until someone presses Ctrl-C."""
    previous: Sample | None = None
    trouble: str | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            shown = frame(sample, previous, url=url, height=console.height, trouble=trouble)
            live.update(shown, refresh=True)
            time.sleep(interval_s)
            try:
                # What was missed while the server was away is no rate of anything.
                previous, sample = (None if trouble else sample), _sample(url, key)
                trouble = None
            except RemoteError as error:
                trouble = str(error)


def _sample(url: str, key: str | None) -> Sample:
    text = request_text(url, "/admin/v1/memory", key, timeout_s=_TIMEOUT_S)
    return Sample(json.loads(text), time.monotonic())


def _fail(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)
