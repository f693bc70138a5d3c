"""An imported router as a directory of its own: a routed set with its adapters inside.

Owns: what such a directory holds, and that what is written can be loaded.
Does not know: where it came from.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from motet.adapters.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from motet.adapters.importing.imported import ImportedAdapter, ImportedSet
from motet.adapters.importing.names import Factors, Key
from motet.adapters.peft_config import PeftLoraConfig
from motet.adapters.peft_lora import load_adapter
from motet.adapters.peft_targets import MODULE_PATHS, module_path
from motet.adapters.roots import quote
from motet.adapters.routed_set import load_routed_set
from motet.adapters.router_config import (
    ROUTER_WEIGHTS_NAME,
    BaseModelRef,
    ExpertRef,
    RouterConfig,
    write_router_config,
)
from motet.core.errors import AdapterError
from motet.core.shape import ModelShape


def write_imported(imported: ImportedSet, out: Path, shape: ModelShape) -> RouterConfig:
    """Write a set, load it to check it, and only then give it its name.

    Args:
        imported: what to write.
        out: the directory, which must not exist.
        shape: the base model.

    Returns:
        The configuration that was written.

    Raises:
        AdapterError: `out` exists or cannot be written, or the set would not load.
    """
    if out.exists():
        raise AdapterError(f"{quote(str(out))} exists. Name a directory that does not.")
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise AdapterError(
            f"{quote(str(partial))} cannot be made: {error.strerror}. If an earlier try left it "
            "there, remove it."
        ) from None
    try:
        config = _write(imported, partial, shape)
        members = [partial / str(member.path) for member in config.members]
        load_routed_set(partial, members, shape)
        partial.rename(out)
    except OSError as error:
        raise AdapterError(f"{quote(str(out))} cannot be written: {error.strerror}.") from None
    finally:  # it has its name by now, unless something went wrong
        shutil.rmtree(partial, ignore_errors=True)
    return config


def _write(imported: ImportedSet, directory: Path, shape: ModelShape) -> RouterConfig:
    experts = [_write_adapter(a, directory, "experts", shape) for a in imported.experts]
    shared = [_write_adapter(a, directory, "shared", shape) for a in imported.shared]
    config = RouterConfig(
        method=imported.method,
        rule=imported.rule,
        base=BaseModelRef(imported.base_name, shape.hidden_size, shape.num_layers),
        experts=tuple(experts),
        shared=tuple(shared),
        provenance=imported.provenance,
    )
    write_router_config(directory, config)
    save_file(dict(imported.gates), directory / ROUTER_WEIGHTS_NAME, metadata={"format": "pt"})
    (directory / "README.md").write_text(_card(config), encoding="utf-8")
    return config


def _write_adapter(
    adapter: ImportedAdapter, directory: Path, folder: str, shape: ModelShape
) -> ExpertRef:
    path = f"{folder}/{adapter.name}"
    target = directory / path
    factors = adapter.read()
    target.mkdir(parents=True)
    text = json.dumps(_config_json(adapter.config, list(factors), shape), indent=2)
    (target / CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")
    save_file(_tensors(factors), target / WEIGHTS_NAME, metadata={"format": "pt"})
    try:
        digest = load_adapter(target, shape).digest
    except AdapterError as error:
        raise AdapterError(
            f"The adapter {quote(adapter.name)} cannot be used: {error.message}", code=error.code
        ) from None
    return ExpertRef(adapter.name, digest, path)


def _tensors(factors: Factors) -> dict[str, Tensor]:
    return {
        f"base_model.model.{module_path(*key)}.lora_{name}.weight": factor.contiguous()
        for key, pair in factors.items()
        for name, factor in zip("AB", pair, strict=True)
    }


def _config_json(
    config: PeftLoraConfig, touched: Sequence[Key], shape: ModelShape
) -> Mapping[str, object]:
    """`adapter_config.json`, as PEFT reads it: the numbers as they were, and what is touched."""
    kept = config.model_dump(
        exclude_none=True, exclude={"target_modules", "exclude_modules", "layers_to_transform"}
    )
    modules = {module for _, module in touched}
    if len(touched) == len(modules) * shape.num_layers:
        targets = [MODULE_PATHS[module].partition(".")[2] for module in sorted(modules)]
    else:  # not the same in all layers
        targets = [module_path(*key) for key in touched]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        **kept,
        "target_modules": targets,
    }


def _card(config: RouterConfig) -> str:
    experts = "\n".join(f"| `{each.name}` | `{each.digest}` |" for each in config.members)
    return f"""# {config.provenance["converted_from"]} router

A routed set of {len(config.experts)} adapters of `{config.base.name}`, converted from \
`{config.provenance["source"]}` by `motet import-router`.

Method `{config.method}`, top {config.rule.top_k}, temperature {config.rule.temperature:g}.

    motet serve MODEL --adapter NAME=DIRECTORY

| adapter | digest |
|---|---|
{experts}
"""
