"""`motet check DIR`: whether an adapter or a routed set will load, and what it holds: no server.

Owns: this command and what it prints.
Does not know: checkpoints (`engine/adapter_check.py`, `engine/routed_set_check.py`), nor what there
is to say of a set (`check_set.py`). This is a process of its own that ends
afterwards, so it may load tensors; it imports what does so only when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motet.adapters.roots import quote
from motet.adapters.router_config import is_routed_set
from motet.core.errors import AdapterError, MotetError
from motet.server.check_set import facts_of_set, members_of_set
from motet.server.model_dir import model_dir_for

if TYPE_CHECKING:
    from motet.adapters.report import AdapterSummary
    from motet.engine.adapter_check import AdapterCheck


def check(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the adapter or routed set.", metavar="DIR")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The base model that it is for: a directory or a hub id.",
            show_default="the built-in model",
        ),
    ] = None,
    page_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="TOKENS",
            help="KV cache in a page.",
            show_default="chosen from the model",
        ),
    ] = None,
    adapter_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the experts lie that a routed set only names.",
            show_default="the directory that the set lies in",
        ),
    ] = None,
) -> None:
    """Check whether an adapter will load, and show what it holds. Exit status 1 if it will not.

    A routed set is checked with its experts.
    """
    if is_routed_set(directory):
        _check_set(directory, adapter_dir or directory.absolute().parent, model, page_size)
    else:
        _check_adapter(directory, model, page_size)


def _check_set(
    directory: Path, adapter_dir: Path, model: str | None, page_size: int | None
) -> None:
    from motet.engine.routed_set_check import check_routed_set

    try:
        result = check_routed_set(directory, adapter_dir, model_dir_for(model), page_size)
    except AdapterError as error:
        _refuse(f"{quote(str(directory))} will not load ({error.code}): {error.message}")
    except MotetError as error:
        _refuse(error.message)
    _print(directory, facts_of_set(result), members_of_set(result))


def _check_adapter(directory: Path, model: str | None, page_size: int | None) -> None:
    from motet.engine.adapter_check import check_adapter

    try:
        result = check_adapter(directory, model_dir_for(model), page_size)
    except MotetError as error:
        _refuse(error.message)
    refusal, summary = result.report.refusal, result.report.summary
    if refusal is not None:
        _refuse(f"{quote(str(directory))} will not load ({refusal.code}): {refusal.message}")
    assert summary is not None  # exactly one of the two is given
    _print(directory, _facts(result, summary), _projections(summary))


def _print(directory: Path, facts: Mapping[str, str], table: Table) -> None:
    console = Console()
    console.print(f"[green]{escape(quote(str(directory)))} will load.[/green]", soft_wrap=True)
    for label, value in facts.items():
        console.print(f"  {label:<13}{escape(value)}", soft_wrap=True, highlight=False)
    console.print(table)


def _facts(result: AdapterCheck, summary: AdapterSummary) -> dict[str, str]:
    assert result.num_pages is not None  # it was not refused
    return {
        "digest": summary.digest,
        # Whoever wrote the adapter wrote this: quoted, it does nothing to a terminal.
        "trained on": quote(summary.base_model_name) if summary.base_model_name else "not said",
        "parameters": f"{summary.num_parameters:,}, stored as {', '.join(summary.stored_dtypes)}",
        "largest rank": str(summary.max_rank),
        "in the pool": f"{result.num_pages} pages of {result.page_size} tokens: as much as "
        f"{result.num_pages * result.page_size} tokens of KV cache",
    }


def _projections(summary: AdapterSummary) -> Table:
    table = Table("projection", "layers", "rank", "scaling")
    for module in summary.modules:
        table.add_row(
            module.module,
            module.layers,
            ", ".join(str(rank) for rank in module.ranks),
            ", ".join(f"{scaling:g}" for scaling in module.scalings),
        )
    return table


def _refuse(message: str) -> NoReturn:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(1)
