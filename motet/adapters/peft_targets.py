"""Which modules a PEFT configuration says it adapted.

Owns: the paths of a decoder's projections, and PEFT's rules of membership.
Does not know: tensors.
"""

from collections.abc import Mapping, Sequence

from motet.adapters.patterns import full_matches
from motet.adapters.peft_config import PeftLoraConfig
from motet.adapters.roots import quote
from motet.core.errors import AdapterError
from motet.core.shape import ModelShape, Module

MODULE_PATHS: Mapping[Module, str] = {
    Module.Q: "self_attn.q_proj",
    Module.K: "self_attn.k_proj",
    Module.V: "self_attn.v_proj",
    Module.O: "self_attn.o_proj",
    Module.GATE: "mlp.gate_proj",
    Module.UP: "mlp.up_proj",
    Module.DOWN: "mlp.down_proj",
}

_Key = tuple[int, Module]


def module_path(layer: int, module: Module) -> str:
    """Path of a projection in the base model: what PEFT matches names and patterns against."""
    return f"model.layers.{layer}.{MODULE_PATHS[module]}"


def check_membership(config: PeftLoraConfig, touched: Sequence[_Key], shape: ModelShape) -> None:
    """Require the configuration to allow every touched projection, and to miss no target.

    Expressions without a linear-time equivalent (look-around, mostly) are not checked: they decide
    membership alone, and the tensors show what was adapted.

    Raises:
        AdapterError: the message names the field, and the module.
    """
    paths = {module_path(*key): key for key in touched}
    excluded = _matched(config.exclude_modules, list(paths), "exclude_modules")
    if excluded:
        raise _contradiction(min(excluded), "exclude_modules rules it out")
    targets = config.target_modules
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return
    targeted = _matched(targets, list(paths), "target_modules")
    for path, (layer, _) in paths.items():
        if targeted is not None and path not in targeted:
            raise _contradiction(path, "target_modules does not name it")
        if isinstance(targets, list) and path not in targets and not _in_layers(config, layer):
            raise _contradiction(path, f"layers_to_transform leaves out layer {layer}")
    if isinstance(targets, list):
        _check_complete(config, targets, set(paths), shape)


def _check_complete(
    config: PeftLoraConfig, targets: list[str], touched: set[str], shape: ModelShape
) -> None:
    """Every target that names projections of this base has a tensor for at least one of them."""
    every = {module_path(i, m): i for i in range(shape.num_layers) for m in Module}
    excluded = _matched(config.exclude_modules, list(every), "exclude_modules") or set()
    adapted = {
        suffix: path in touched
        for path, layer in sorted(every.items(), key=lambda item: item[0] in touched)
        if path not in excluded and (path in targets or _in_layers(config, layer))
        for suffix in _suffixes(path)
    }
    for target in targets:
        if not adapted.get(target, True):
            raise AdapterError(
                f"target_modules names {quote(target)}, but the file has no tensor for it. The "
                "file is incomplete; save the adapter again, or remove the name."
            )


def _matched(modules: list[str] | str | None, paths: list[str], field: str) -> set[str] | None:
    """The paths that PEFT's rule for `target_modules` matches; None if it cannot be told."""
    if modules is None:
        return set()
    if isinstance(modules, list):
        names = set(modules)
        return {path for path in paths if not names.isdisjoint(_suffixes(path))}
    try:
        return set(full_matches(modules, paths, field))
    except AdapterError:
        return None


def _suffixes(path: str) -> list[str]:
    """The path itself and every end of it that begins after a dot."""
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _in_layers(config: PeftLoraConfig, layer: int) -> bool:
    layers = config.layers_to_transform
    if isinstance(layers, int):
        return layer == layers
    return not layers or layer in layers


def _contradiction(path: str, reason: str) -> AdapterError:
    return AdapterError(
        f"The file has tensors for {path}, but {reason}. Configuration and weights do not belong "
        "together; save them together."
    )
