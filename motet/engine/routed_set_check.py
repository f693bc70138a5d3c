"""Whether a routed set would load beside a model, and what it would take: without an engine.

Owns: this answer, for `motet check`, and where experts are looked for without a server.
Does not know: how it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motet.adapters.delta import AdapterDeltas
from motet.adapters.routed_set import RoutedSet, load_routed_set
from motet.adapters.router_config import ExpertRef, member_directory, read_router_config
from motet.memory.geometry import PageGeometry, lay_out_adapter, smallest_page_size
from motet.models.config import load_config


@dataclass(frozen=True)
class RoutedSetCheck:
    """The answer for a set that will load.

    Attributes:
        routed_set: what it holds.
        num_pages: pages of the pool that its gates take, and its experts and shared adapters, those
            of one content once.
        page_size: KV tokens in a page.
    """

    routed_set: RoutedSet
    num_pages: int
    page_size: int


def check_routed_set(
    directory: Path, adapter_dir: Path, model_dir: Path, page_size: int | None
) -> RoutedSetCheck:
    """Read and check a routed set as the engine would.

    Args:
        directory: the set's.
        adapter_dir: where experts lie, each in a folder of its name, that the set only names.
        model_dir: the base model's.
        page_size: KV tokens in a page; None is what the engine would choose.

    Raises:
        AdapterError: it would be refused.
        ModelError: the model's config cannot be read.
        ConfigError: a page of this size does not hold a row.
    """
    shape = load_config(model_dir).shape
    geometry = PageGeometry(shape, page_size or smallest_page_size(shape))
    resolved = directory.resolve()
    members = [
        _directory_of(each, resolved, adapter_dir) for each in read_router_config(resolved).members
    ]
    routed_set = load_routed_set(resolved, members, shape)
    adapters = {each.digest: each for each in (*routed_set.experts, *routed_set.shared)}
    gates = {key: len(rows) for key, rows in routed_set.gates.items()}
    num_pages = lay_out_adapter(geometry, gates, has_b=False).num_pages
    num_pages += sum(_num_pages(each, geometry) for each in adapters.values())
    return RoutedSetCheck(routed_set, num_pages, geometry.page_size)


def _directory_of(member: ExpertRef, directory: Path, adapter_dir: Path) -> Path:
    if member.path is None:
        return adapter_dir / member.name
    return member_directory(directory, member)


def _num_pages(adapter: AdapterDeltas, geometry: PageGeometry) -> int:
    ranks = {key: delta.rank for key, delta in adapter.deltas.items()}
    return lay_out_adapter(geometry, ranks).num_pages
