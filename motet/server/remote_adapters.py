"""`motet adapters …`: what is loaded on a running server, and changes of it.

Owns: these commands. They use the public HTTP API and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from motet.server.remote_http import DEFAULT_URL, AdminKeyOption, UrlOption, fail, send

_ADAPTERS = "/admin/v1/adapters"

NameArgument = Annotated[str, typer.Argument(help="Name of the adapter.")]


def list_adapters(url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = None) -> None:
    """List the adapters of a running server: versions, their states, and what the name means."""
    adapters = json.loads(send(url, _ADAPTERS, admin_key))["data"]
    table = Table(
        "adapter", "version", "alias", "kind", "state", "where", "rank", "pages", "digest", "from"
    )
    for adapter in adapters:
        for version in adapter["versions"]:
            table.add_row(*_row(adapter, version))
    Console().print(table if adapters else "there are no adapters")


def load_adapter(
    name: Annotated[str, typer.Argument(help="Name that requests will use.")],
    source: Annotated[
        str,
        typer.Argument(
            help="A directory on the server, hf:ORG/REPOSITORY[@REVISION], or s3://BUCKET/PREFIX.",
        ),
    ],
    no_activate: Annotated[
        bool,
        typer.Option("--no-activate", help="Load it without changing what the name means."),
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep it on the device, whether or not it is used.")
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Refuse other content than this.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Load an adapter, or a new version of one, into a running server."""
    body: dict[str, Any] = {
        "name": name,
        "source": _source(source),
        "activate": not no_activate,
        "sha256": sha256,
        "wait": True,
    }
    if pin:  # else a new version is pinned if the name is
        body["pin"] = True
    operation = json.loads(send(url, _ADAPTERS, admin_key, body))["operation"]
    typer.echo(f"{name}@{operation['version']} is ready.")


def point_alias(
    name: NameArgument,
    weights: Annotated[
        list[str], typer.Argument(metavar="VERSION[=WEIGHT]...", help="As 3=95 4=5, or just 4.")
    ],
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Have a name mean other versions, in shares of any whole."""
    body = {"weights": dict(map(_weight, weights))}
    answer = send(url, f"{_path(name)}/alias", admin_key, body, method="PUT")
    typer.echo(f"{name} is {_shares(json.loads(answer)['alias'])}.")


def roll_back(
    name: NameArgument, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = None
) -> None:
    """Have a name mean what it meant before its last change."""
    answer = send(url, f"{_path(name)}:rollback", admin_key, {})
    typer.echo(f"{name} is {_shares(json.loads(answer)['alias'])} again.")


def pin_adapter(
    name: NameArgument, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = None
) -> None:
    """Keep an adapter on the device of a running server, whether or not it is used."""
    send(url, f"{_path(name)}:pin", admin_key, {})
    typer.echo(f"{name} is pinned.")


def unpin_adapter(
    name: NameArgument, url: UrlOption = DEFAULT_URL, admin_key: AdminKeyOption = None
) -> None:
    """Let a pinned adapter be evicted again when it is not used."""
    send(url, f"{_path(name)}:unpin", admin_key, {})
    typer.echo(f"{name} is not pinned.")


def delete_adapter(
    name: Annotated[str, typer.Argument(help="Name of the adapter, or NAME@VERSION.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also a version that the name means.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    admin_key: AdminKeyOption = None,
) -> None:
    """Delete an adapter, or one version, once its running requests have ended."""
    path = f"{_path(name)}?force={str(force).lower()}"
    is_drained = json.loads(send(url, path, admin_key, method="DELETE"))["drained"]
    typer.echo(f"{name} is deleted{'' if is_drained else '; requests on it still run'}.")


def _row(adapter: dict[str, Any], version: dict[str, Any]) -> list[str]:
    weights = {} if adapter["alias"] is None else adapter["alias"]["weights"]
    share = weights.get(str(version["version"]))
    unread = version["digest"] is None
    pinned = ", pinned" if adapter["pinned"] and share is not None else ""
    reason = f": {version['reason']}" if version["reason"] else ""
    return [
        adapter["name"],
        str(version["version"]),
        "" if share is None else f"{share:.0%}",
        _kind(version),
        f"{version['state']}{reason}",
        f"{version['tier'] or ''}{pinned}",
        "" if unread else str(version["max_rank"]),
        "" if unread else str(version["num_pages"]),
        "" if unread else version["digest"][:12],
        version["source"]["uri"],
    ]


def _kind(version: dict[str, Any]) -> str:
    """ "adapter", or how a routed set chooses: "meteora of 6"."""
    routing = version["routing"]
    if routing is None:
        return version["kind"] or ""
    return f"{routing['method']} of {len(routing['experts'])}"


def _source(text: str) -> dict[str, Any]:
    if text.startswith("s3://"):
        return {"type": "s3", "uri": text}
    if text.startswith("hf:"):
        uri, _, revision = text.removeprefix("hf:").partition("@")
        return {"type": "hf", "uri": uri, "revision": revision or None}
    # Where the server runs elsewhere, the path is not known here and goes as it is.
    return {"type": "path", "uri": str(Path(text).absolute()) if Path(text).is_dir() else text}


def _weight(text: str) -> tuple[str, float]:
    version, _, weight = text.partition("=")
    try:
        return version, float(weight or 1)
    except ValueError:
        fail(f"{text!r} should be VERSION or VERSION=WEIGHT, such as 3=95.")


def _shares(alias: dict[str, Any]) -> str:
    return ", ".join(f"version {each} ({share:.0%})" for each, share in alias["weights"].items())


def _path(name: str) -> str:
    return f"{_ADAPTERS}/{quote(name, safe='/@')}"
