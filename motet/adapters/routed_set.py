"""A routed set's directory to gates and experts, all of it or nothing.

Owns: the digest of a set, and that its configuration, gates and experts agree.
Does not know: the names of tensors (`adapters/router_gates.py`), how scores become weights, nor
devices.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from motet.adapters.arrow import prototype_gates
from motet.adapters.checkpoint import MAX_WEIGHTS_BYTES
from motet.adapters.delta import AdapterDeltas
from motet.adapters.files import names_in, read_together, resolve
from motet.adapters.parsing import parse_tensors
from motet.adapters.peft_lora import load_adapter
from motet.adapters.roots import quote
from motet.adapters.router_config import (
    MAX_ROUTER_CONFIG_BYTES,
    ROUTER_CONFIG_NAME,
    ROUTER_WEIGHTS_NAME,
    ExpertRef,
    RouterConfig,
    check_base,
    parse_router_config,
)
from motet.adapters.router_gates import GateKey, StoredGates, gate_path, stored_gates
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError
from motet.core.pacing import Pace, at_once
from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape, Module

_VERSION = b"motet routed set 1\n"
_MLP = (Module.GATE, Module.UP, Module.DOWN)


@dataclass(frozen=True, slots=True, eq=False)
class RoutedSet:
    """A whole routed set, checked against the shape of its base.

    Attributes:
        digest: its identity, 64 hexadecimal characters; see `_digest`.
        config: its configuration.
        gates: by (layer, module), in that order: float32 [rows, in_features] on the CPU, one row
            for each expert (or each rank, where the rule is by rank), then, where the rule has
            biases, one that begins with them. Without an entry no expert is used there.
        experts: in the order of the gates.
        shared: adapters that every token uses.
    """

    digest: str
    config: RouterConfig
    gates: Mapping[GateKey, Tensor]
    experts: tuple[AdapterDeltas, ...]
    shared: tuple[AdapterDeltas, ...]


def load_routed_set(
    directory: Path,
    member_dirs: Sequence[Path],
    shape: ModelShape,
    *,
    root: Path | None = None,
    is_resolved: bool = False,
    pace: Pace = at_once,
) -> RoutedSet:
    """Read and check a routed set.

    Args:
        directory: where `router_config.json` and `router.safetensors` are.
        member_dirs: the directories of its experts, and then of its shared adapters, in the order
            of the configuration.
        shape: the base model that the set is for.
        root: where symbolic links in each of these may lead; None is the directory itself.
        is_resolved: as in `adapters/files.resolve`, for all of these.
        pace: called between pieces of work.

    Raises:
        AdapterError: the message names the field, tensor or expert at fault.
    """
    config, tensors = _read(directory, root, is_resolved=is_resolved)
    pace()
    check_base(config, shape)
    if len(member_dirs) != len(config.members):
        raise AdapterError(
            f"{ROUTER_CONFIG_NAME} names {len(config.members)} experts and shared adapters, but "
            f"{len(member_dirs)} directories were found for them. Load the set again."
        )
    stored = stored_gates(tensors, config.rule, shape, pace=pace)
    members = tuple(
        _load_member(ref, path, shape, root, is_resolved=is_resolved, pace=pace)
        for ref, path in zip(config.members, member_dirs, strict=True)
    )
    experts = members[: len(config.experts)]
    shared = members[len(config.experts) :]
    _check_roles(config.rule, experts, shared)
    _check_numbers(config, stored, experts)
    if config.method == "arrow":
        gates = prototype_gates(experts, pace=pace)
    else:
        gates = {key: each.rows for key, each in stored.items()}
    return RoutedSet(_digest(config, stored, pace=pace), config, gates, experts, shared)


def _read(
    directory: Path, root: Path | None, *, is_resolved: bool
) -> tuple[RouterConfig, dict[str, Tensor]]:
    resolved = resolve(directory, root, is_resolved=is_resolved)
    names = names_in(resolved)
    limits = {
        name: limit
        for name, limit in (
            (ROUTER_CONFIG_NAME, MAX_ROUTER_CONFIG_BYTES),
            (ROUTER_WEIGHTS_NAME, MAX_WEIGHTS_BYTES),
        )
        if name in names
    }
    if ROUTER_CONFIG_NAME not in limits:
        raise AdapterError(f"The directory has no {ROUTER_CONFIG_NAME}. Check the path.")
    contents = read_together(resolved, resolved if root is None else root, limits)
    config = parse_router_config(contents[0])
    has_tensors = METHODS[config.method].has_tensors
    if has_tensors != (len(contents) == 2):
        expected = "that holds its gates" if has_tensors else "and the method has no gates to store"
        raise AdapterError(
            f"The method is {config.method}, which "
            f"{'needs' if has_tensors else 'takes no'} {ROUTER_WEIGHTS_NAME}, {expected}. "
            f"{'Check that the upload finished' if has_tensors else 'Remove the file'}."
        )
    return config, parse_tensors(contents[1], ROUTER_WEIGHTS_NAME) if has_tensors else {}


def _load_member(
    ref: ExpertRef,
    path: Path,
    shape: ModelShape,
    root: Path | None,
    *,
    is_resolved: bool,
    pace: Pace,
) -> AdapterDeltas:
    try:
        adapter = load_adapter(path, shape, root=root, is_resolved=is_resolved, pace=pace)
    except AdapterError as error:
        raise AdapterError(
            f"The expert {quote(ref.name)} cannot be used: {error.message}", code=error.code
        ) from None
    if adapter.digest != ref.digest:
        raise AdapterError(
            f"The expert {quote(ref.name)} has the digest {adapter.digest}, but the router was "
            f"made for {ref.digest}. Put that version back, or train the router anew."
        )
    return adapter


def _check_roles(
    rule: RoutingRule, experts: Sequence[AdapterDeltas], shared: Sequence[AdapterDeltas]
) -> None:
    """Where a choice is for a whole MLP, experts are in it, and what is shared is outside."""
    if not rule.per_block:
        return
    for expert in experts:
        if not set(expert.modules) <= set(_MLP):
            raise AdapterError(
                "An expert touches attention projections, which this method does not route. Make "
                "them an adapter of their own, under `shared`.",
                code="unsupported_adapter",
            )
    for adapter in shared:
        if set(adapter.modules) & set(_MLP):
            raise AdapterError(
                "A shared adapter touches the MLP, which this method routes as a whole. It may "
                "touch attention projections alone.",
                code="unsupported_adapter",
            )


def _check_numbers(
    config: RouterConfig, stored: Mapping[GateKey, StoredGates], experts: Sequence[AdapterDeltas]
) -> None:
    """There are as many gates as there is to choose from."""
    rule = config.rule
    if METHODS[config.method].has_tensors and not stored:
        raise AdapterError(f"{ROUTER_WEIGHTS_NAME} holds no gates. Check that training saved them.")
    if rule.by_rank:
        _check_ranks(config, stored, experts[0])
        return
    for key, gates in stored.items():
        if len(gates.weight) > len(experts):
            path = gate_path(*key, per_block=rule.per_block)
            raise AdapterError(
                f"The gates {quote(path)} are {len(gates.weight)}, but there are "
                f"{len(experts)} experts."
            )


def _check_ranks(
    config: RouterConfig, stored: Mapping[GateKey, StoredGates], expert: AdapterDeltas
) -> None:
    rule = config.rule
    if rule.top_k > expert.max_rank:
        raise AdapterError(
            f"{ROUTER_CONFIG_NAME}: top_k is {rule.top_k}, but the expert's largest rank is "
            f"{expert.max_rank}."
        )
    if not METHODS[config.method].has_tensors:
        return
    for key in sorted({*stored, *expert.deltas}):
        num_gates = len(stored[key].weight) if key in stored else 0
        if num_gates != expert.rank(*key):
            path = gate_path(*key, per_block=rule.per_block)
            raise AdapterError(
                f"The gates {quote(path)} are {num_gates}, but the expert has "
                f"rank {expert.rank(*key)} there."
            )


def _digest(config: RouterConfig, stored: Mapping[GateKey, StoredGates], *, pace: Pace) -> str:
    """The identity of a set: SHA-256 of what decides its outputs.

    The digest takes the rule, the digests of experts and of shared adapters, each in order, and
    for each layer and module one line of text and then the bytes of its gates as stored. Lines give
    the length of the bytes that follow, so no two contents give the same stream. Names, paths and
    what people are told do not enter.
    """
    rule = config.rule
    threshold = "none" if rule.threshold is None else rule.threshold.hex()
    sha = hashlib.sha256(_VERSION)
    sha.update(
        f"{rule.top_k} {rule.score} {rule.share} {rule.temperature.hex()} {threshold} "
        f"{rule.by_rank} {rule.has_bias} {rule.per_block}\n".encode()
    )
    for role, members in (("expert", config.experts), ("shared", config.shared)):
        for member in members:
            sha.update(f"{role} {member.digest}\n".encode())
    for (layer, module), gates in sorted(stored.items()):
        for tensor in (gates.weight, gates.bias):
            if tensor is not None:
                described = f"{tensor.dtype} {' '.join(map(str, tensor.shape))}"
                sha.update(f"gates {layer} {module.name} {described}\n".encode())
                sha.update(tensor.contiguous().view(torch.uint8).numpy().data)
        pace()
    return sha.hexdigest()
