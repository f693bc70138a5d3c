"""Tensor names of foreign layouts, sorted by what they are.

Owns: turning names into gates, experts' factors and shared factors, by a layout's patterns.
Does not know: the layouts; each brings its patterns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from motet.adapters.importing.source import TensorFiles
from motet.adapters.peft_targets import MODULE_PATHS, module_path
from motet.adapters.roots import quote
from motet.core.errors import AdapterError
from motet.core.shape import Module

Key = tuple[int, Module]
Factors = Mapping[Key, tuple[Tensor, Tensor]]

_MODULES = {path: module for module, path in MODULE_PATHS.items()}
# Names of single projections, among them those of old MixLoRA checkpoints.
_SHORT = {path.partition(".")[2]: module for path, module in _MODULES.items()} | {
    "w1_proj": Module.GATE,
    "w2_proj": Module.DOWN,
    "w3_proj": Module.UP,
}


@dataclass(frozen=True)
class SortedNames:
    """Names of tensors.

    Attributes:
        gates: by (layer, module); by (layer, None) where they are for a whole MLP.
        experts: of each expert, of each projection, "A" and "B" to the name.
        plain: the same, of factors that are no expert's.
    """

    gates: dict[tuple[int, Module | None], str] = field(default_factory=dict)
    experts: dict[int, dict[Key, dict[str, str]]] = field(default_factory=dict)
    plain: dict[Key, dict[str, str]] = field(default_factory=dict)


def sort_names(
    names: frozenset[str], patterns: Sequence[str], ignored: str | None = None
) -> SortedNames:
    """Sort the names of a checkpoint.

    Args:
        names: all of them.
        patterns: expressions for a whole name, with the groups `layer`; `path` or `projection`;
            `factor` (without it, a gate's name); `expert` (without it, a plain factor's).
        ignored: an expression for names that are known and not needed.

    Raises:
        AdapterError: a name matches none, or a factor has no partner.
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    known = re.compile(ignored) if ignored else None
    found = SortedNames()
    for name in sorted(names):
        match = next((m for m in (p.fullmatch(name) for p in compiled) if m), None)
        if match is not None:
            _place(name, match.groupdict(), found)
        elif known is None or not known.fullmatch(name):
            raise _unknown(name)
    if not found.gates:
        raise AdapterError(
            "No gates are in the file. Check that the checkpoint is of this layout, and that it "
            "was saved with its router."
        )
    for factors in (found.plain, *found.experts.values()):
        for key, pair in factors.items():
            if len(pair) != 2:
                raise AdapterError(
                    f"Of {module_path(*key)}, {' and '.join(pair.values())} is there alone. The "
                    "file is incomplete."
                )
    return found


def read_factors(files: TensorFiles, names: Mapping[Key, Mapping[str, str]]) -> Factors:
    """The factors A and B of each projection."""
    return {key: (files.read(pair["A"]), files.read(pair["B"])) for key, pair in names.items()}


def _place(name: str, groups: Mapping[str, str | None], found: SortedNames) -> None:
    layer, factor, expert = int(groups["layer"] or 0), groups.get("factor"), groups.get("expert")
    module = _module(name, groups)
    if factor is None:
        if (layer, module) in found.gates:
            raise _twice(found.gates[layer, module], name)
        found.gates[layer, module] = name
        return
    if module is None:
        raise _unknown(name)
    factors = found.plain if expert is None else found.experts.setdefault(int(expert), {})
    pair = factors.setdefault((layer, module), {})
    if factor in pair:
        raise _twice(pair[factor], name)
    pair[factor] = name


def _module(name: str, groups: Mapping[str, str | None]) -> Module | None:
    path, projection = groups.get("path"), groups.get("projection")
    if path is None and projection is None:
        return None
    module = _MODULES.get(path or "") if path else _SHORT.get(projection or "")
    if module is None:
        raise _unknown(name)
    return module


def _twice(first: str, second: str) -> AdapterError:
    return AdapterError(f"{quote(first)} and {quote(second)} stand for the same. Keep one.")


def _unknown(name: str) -> AdapterError:
    return AdapterError(
        f"The tensor {quote(name)} is not known in this layout, or is of a projection that is not "
        f"one of {', '.join(MODULE_PATHS.values())}.",
        code="unsupported_adapter",
    )
