"""From a directory to adapters in page layout: one adapter, or a routed set with all its members.

Owns: what a directory becomes before it is given a place.
Does not know: threads (`loader.py`), references (`store.py`), nor checkpoint formats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from motet.adapters.delta import AdapterDeltas
from motet.adapters.peft_lora import load_adapter
from motet.adapters.routed_set import RoutedSet, load_routed_set
from motet.adapters.router_config import is_routed_set
from motet.core.messages import AdapterInfo, RoutedSetInfo, WeightedAdapter
from motet.core.pacing import Pace
from motet.core.routing import Score
from motet.core.shape import Module
from motet.memory.device_pool import PackedAdapter, pack_adapter
from motet.memory.geometry import PageGeometry, Run
from motet.memory.members import Members, Router


@dataclass(frozen=True)
class Source:
    """Where something can be read from.

    Attributes:
        path: the directory.
        expert_paths: of a routed set, the directories of its experts and its shared adapters.
    """

    path: str
    expert_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One adapter, or the gates of a routed set, in page layout.

    Attributes:
        source: where it was read from.
        packed: its rows.
        info: what is told of it; of gates, what is told of the whole set.
        members: what the set consists of; None for an adapter.
    """

    source: Source
    packed: PackedAdapter
    info: AdapterInfo
    members: Members | None = None

    @property
    def digest(self) -> str:
        return self.info.digest


@dataclass(frozen=True)
class PackingFormat:
    """How rows are packed: for which pages, in which dtype, and in which kind of memory."""

    geometry: PageGeometry
    dtype: torch.dtype
    pinned: bool


def read_parts(source: Source, packing: PackingFormat, pace: Pace) -> list[Part]:
    """Read, check and pack what lies in a directory.

    Args:
        source: the directory, resolved, and those of a set's members.
        packing: how to pack it.
        pace: called between pieces of work.

    Returns:
        The adapter; or the gates of a routed set, and then each of its members once.

    Raises:
        AdapterError: something is refused, and with it all.
    """
    if not is_routed_set(Path(source.path)):
        adapter = load_adapter(
            Path(source.path), packing.geometry.shape, is_resolved=True, pace=pace
        )
        return [_pack_deltas(adapter, source, packing, pace)]
    routed = _load_set(source, packing, pace)
    members = zip((*routed.experts, *routed.shared), source.expert_paths, strict=True)
    distinct = {member.digest: (member, Source(path)) for member, path in members}
    parts = [_pack_deltas(member, where, packing, pace) for member, where in distinct.values()]
    return [_pack_gates(routed, source, parts, packing, pace), *parts]


def read_part(source: Source, packing: PackingFormat, pace: Pace) -> Part:
    """`read_parts` without packing the members of a set, which are read again by themselves."""
    if not is_routed_set(Path(source.path)):
        return read_parts(source, packing, pace)[0]
    return _pack_gates(_load_set(source, packing, pace), source, [], packing, pace)


def _load_set(source: Source, packing: PackingFormat, pace: Pace) -> RoutedSet:
    return load_routed_set(
        Path(source.path),
        [Path(path) for path in source.expert_paths],
        packing.geometry.shape,
        is_resolved=True,
        pace=pace,
    )


def _pack_deltas(
    adapter: AdapterDeltas, source: Source, packing: PackingFormat, pace: Pace
) -> Part:
    def rows_of(run: Run) -> Tensor:
        delta = adapter.deltas[run.layer, run.module]
        return delta.b.T if run.is_b else delta.a

    packed = pack_adapter(
        packing.geometry,
        packing.dtype,
        {key: delta.rank for key, delta in adapter.deltas.items()},
        rows_of,
        pinned=packing.pinned,
        pace=pace,
    )
    info = AdapterInfo(
        digest=adapter.digest,
        max_rank=adapter.max_rank,
        modules=[module.name.lower() for module in adapter.modules],
        num_parameters=adapter.num_parameters,
        num_pages=packed.layout.num_pages,
    )
    return Part(source, packed, info)


def _pack_gates(
    routed: RoutedSet, source: Source, parts: Sequence[Part], packing: PackingFormat, pace: Pace
) -> Part:
    packed = pack_adapter(
        packing.geometry,
        packing.dtype,
        {key: len(rows) for key, rows in routed.gates.items()},
        lambda run: routed.gates[run.layer, run.module],
        pinned=packing.pinned,
        has_b=False,
        pace=pace,
    )
    num_pages = packed.layout.num_pages + sum(part.info.num_pages for part in parts)
    return Part(source, packed, _set_info(routed, num_pages), _members(routed))


def _set_info(routed: RoutedSet, num_pages: int) -> AdapterInfo:
    distinct = {each.digest: each for each in (*routed.experts, *routed.shared)}.values()
    modules = sorted({module for each in distinct for module in each.modules})
    num_gate_elems = sum(rows.numel() for rows in routed.gates.values())
    return AdapterInfo(
        digest=routed.digest,
        max_rank=max(each.max_rank for each in distinct),
        modules=[module.name.lower() for module in modules],
        num_parameters=num_gate_elems + sum(each.num_parameters for each in distinct),
        num_pages=num_pages,
        routed=RoutedSetInfo(
            method=routed.config.method,
            experts=[each.digest for each in routed.experts],
            names=[ref.name for ref in routed.config.experts],
            shared=[each.digest for each in routed.shared],
            by_rank=routed.config.rule.by_rank,
        ),
    )


def _members(routed: RoutedSet) -> Members:
    rule = routed.config.rule
    uses: Mapping[tuple[int, Module], object] = routed.gates
    if rule.score is Score.SELF:  # without gates, its only expert is chosen from wherever it is
        uses = routed.experts[0].deltas
    router = Router(
        digest=routed.digest,
        rule=rule,
        experts=tuple(each.digest for each in routed.experts),
        num_gates=routed.experts[0].max_rank if rule.by_rank else len(routed.experts),
        num_uses=len(uses),
    )
    return Members(tuple(WeightedAdapter(each.digest, 1.0) for each in routed.shared), router)
