"""What `motet check DIR` prints of a routed set.

Owns: the words and the table.
Does not know: how a set is checked (`engine/routed_set_check.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from motet.adapters.roots import quote

if TYPE_CHECKING:
    from motet.adapters.delta import AdapterDeltas
    from motet.adapters.router_config import ExpertRef
    from motet.engine.routed_set_check import RoutedSetCheck


def facts_of_set(result: RoutedSetCheck) -> dict[str, str]:
    """What there is to say of the whole set, by label."""
    routed_set = result.routed_set
    config, rule, gates = routed_set.config, routed_set.config.rule, routed_set.gates
    among = "the expert's ranks" if rule.by_rank else f"{len(config.experts)} experts"
    num_parameters = sum(rows.numel() for rows in gates.values())
    return {
        "digest": routed_set.digest,
        "routed set": f"{config.method}: the top {rule.top_k} of {among}, temperature "
        f"{rule.temperature:g}",
        # Whoever wrote the set wrote this: quoted, it does nothing to a terminal.
        "made for": quote(config.base.name),
        "gates": f"{num_parameters:,} parameters in {len(gates)} projections",
        "in the pool": f"{result.num_pages} pages of {result.page_size} tokens, for its gates and "
        "its experts",
    }


def members_of_set(result: RoutedSetCheck) -> Table:
    """A row for each expert, then for each shared adapter."""
    table = Table("expert", "digest", "rank", "parameters", "lies")
    routed_set = result.routed_set
    for ref, adapter in zip(routed_set.config.experts, routed_set.experts, strict=True):
        table.add_row(*_row(ref, adapter))
    for ref, adapter in zip(routed_set.config.shared, routed_set.shared, strict=True):
        table.add_row(*_row(ref, adapter, " (shared)"))
    return table


def _row(ref: ExpertRef, adapter: AdapterDeltas, role: str = "") -> list[str]:
    where = "under its name" if ref.path is None else "in the set"
    parameters = f"{adapter.num_parameters:,}"
    return [f"{ref.name}{role}", ref.digest[:12], str(adapter.max_rank), parameters, where]
