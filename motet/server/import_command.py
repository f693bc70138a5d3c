"""`motet import-router LAYOUT SOURCE --out DIR`: a router that others made, as a routed set.

Owns: this command and what it prints.
Does not know: layouts (`adapters/importing/`). Like `check.py` it is a process of its own, which
loads tensors only when it runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from motet.adapters.roots import quote
from motet.core.errors import MotetError
from motet.server.model_dir import model_dir_for


class Layout(StrEnum):
    """Who wrote the checkpoint."""

    METEORA = "meteora"
    MIXLORA = "mixlora"
    MOLA = "mola"


def import_router(
    layout: Annotated[Layout, typer.Argument(help="Whose format it is.")],
    source: Annotated[Path, typer.Argument(help="The checkpoint: a directory or a file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the routed set is made.")],
    adapters: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="meteora: the directory of the task adapters."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="meteora: the task adapters' names, in the order of training.",
            show_default="the 28 tasks of the released checkpoints",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many experts a token takes.",
            show_default="what the checkpoint says, or was published",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="What scores are divided by.", show_default="1")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The base model that it is for: a directory or a hub id.",
            show_default="the built-in model",
        ),
    ] = None,
) -> None:
    """Convert a MeteoRA, MixLoRA or MoLA checkpoint to a routed set that can be served."""
    from motet.adapters.importing.imported import ImportOptions
    from motet.engine.router_import import import_router_for

    names = None if order is None else [name.strip() for name in order.split(",")]
    options = ImportOptions(adapters, names, top_k, temperature)
    try:
        config = import_router_for(model_dir_for(model), layout.value, source, out, options)
    except MotetError as error:
        typer.secho(f"Error: {error.message}", err=True, fg="red")
        raise typer.Exit(1) from None
    Console().print(
        f"[green]{escape(quote(str(out)))}[/green] holds {len(config.experts)} experts, "
        f"{len(config.shared)} shared adapters and their router (top {config.rule.top_k}, "
        f"temperature {config.rule.temperature:g}).",
        soft_wrap=True,
        highlight=False,
    )
