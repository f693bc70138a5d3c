"""`motet keys create`, `list` and `revoke`: the file of keys from the command line.

Owns: their options, and what they print.
Does not know: a running server, which notices by itself that the file has changed.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from motet.core.errors import ConfigError, MotetError
from motet.server.key_file import edit_keys, read_keys
from motet.server.keys import Key, KeyLimits, digest_of, new_secret, utc_now
from motet.server.principal import Role

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

FileOption = Annotated[
    Path,
    typer.Option(
        "--keys-file",
        metavar="FILE",
        envvar="MOTET_KEYS_FILE",
        help="The file that `motet serve --keys-file` follows.",
    ),
]
_LimitOption = Annotated[int | None, typer.Option(min=1, show_default="no limit")]


def create(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Names the key; not secret.")],
    keys_file: FileOption,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Keys of one tenant share cached prefixes and turns.",
            show_default="the key's own ID",
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="The key may manage adapters, and everything else.")
    ] = False,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of adapters that it may use, with * and ?; may be repeated.",
            show_default="all",
        ),
    ] = None,
    requests_per_minute: _LimitOption = None,
    tokens_per_minute: _LimitOption = None,
    max_concurrent: _LimitOption = None,
    weight: Annotated[
        float,
        typer.Option(
            help="Its tenant's share relative to others, from 0.01 to 100, where the server's "
            "--policy is fair.",
        ),
    ] = 1.0,
    expires_in: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Such as 90d, 12h or 30m.", show_default="never"),
    ] = None,
) -> None:
    """Make a key and print it. It is shown this once: the file has only its digest."""
    try:
        secret = new_secret()
        created_at = utc_now()
        key = _checked(
            Key(
                id=key_id,
                sha256=digest_of(secret),
                roles=[Role.ADMIN] if admin else [Role.INFERENCE],
                tenant=key_id if tenant is None else tenant,
                adapters=adapter,
                limits=KeyLimits(
                    requests_per_minute=requests_per_minute,
                    tokens_per_minute=tokens_per_minute,
                    max_concurrent=max_concurrent,
                ),
                weight=weight,
                created_at=created_at,
                expires_at=None if expires_in is None else created_at + _duration(expires_in),
            )
        )
        edit_keys(keys_file, lambda keys: _with(keys, key))
    except MotetError as error:
        _fail(error.message)
    typer.echo(secret)


def list_keys(keys_file: FileOption) -> None:
    """Show the keys of a file, without what would open anything."""
    try:
        keys = read_keys(keys_file)
    except MotetError as error:
        _fail(error.message)
    table = Table("id", "tenant", "roles", "adapters", "limits", "weight", "created", "expires")
    for key in keys:
        table.add_row(
            key.id,
            key.tenant,
            ", ".join(role.value for role in key.roles),
            "all" if key.adapters is None else ", ".join(key.adapters),
            _limits_text(key.limits),
            f"{key.weight:g}",
            f"{key.created_at:%Y-%m-%d %H:%M}",
            _expiry_text(key),
        )
    Console().print(table)


def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], keys_file: FileOption) -> None:
    """Take a key out of a file; servers that follow it refuse the key within a second."""
    try:
        edit_keys(keys_file, lambda keys: _without(keys, key_id))
    except MotetError as error:
        _fail(error.message)


def _with(keys: list[Key], key: Key) -> list[Key]:
    if any(each.id == key.id for each in keys):
        raise ConfigError(f"There is a key {key.id} already; revoke it first, or choose another.")
    return [*keys, key]


def _without(keys: list[Key], key_id: str) -> list[Key]:
    left = [key for key in keys if key.id != key_id]
    if len(left) == len(keys):
        known = ", ".join(key.id for key in keys) or "none"
        raise ConfigError(f"There is no key {key_id}; there are: {known}.")
    return left


def _checked(key: Key) -> Key:
    """The key, if the file could be read again with it. msgspec checks what it decodes alone."""
    try:
        return msgspec.convert(msgspec.to_builtins(key), Key)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The key cannot be as asked for: {error}.") from error


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    if match is None:
        raise ConfigError(
            f"--expires-in {text!r} is no time; write a number of days, hours or minutes, such as "
            "90d, 12h or 30m."
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _limits_text(limits: KeyLimits) -> str:
    named = (
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.max_concurrent, "at a time"),
    )
    return ", ".join(f"{limit} {what}" for limit, what in named if limit is not None) or "none"


def _expiry_text(key: Key) -> str:
    if key.expires_at is None:
        return "never"
    suffix = " (expired)" if key.has_expired(utc_now()) else ""
    return f"{key.expires_at:%Y-%m-%d %H:%M}{suffix}"


def _fail(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)
