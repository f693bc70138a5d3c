"""Random routed sets on disk, for tests: JSON and safetensors written by hand.

As in `make.py`, nothing here reads or writes with what it tests; digests alone are taken from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from motet.adapters.peft_lora import load_adapter
from motet.core.shape import MODULES, ModelShape, Module
from tests.adapters.make import PATHS, TINY, AdapterSpec, write_lora

# What a configuration of each method needs besides experts, for sets of three (or of one).
METHOD_FIELDS: Mapping[str, Mapping[str, object]] = {
    "meteora": {"top_k": 2, "temperature": 1.5},
    "lora_mixer": {"top_k": 3, "renormalise": False},
    "mola": {"top_k": 2},
    "mixlora": {"top_k": 2},
    "arrow": {"top_k": 2, "temperature": 0.5},
    "smora": {"top_k": 2, "gate_values": "softmax"},
    "mora": {"top_k": 2, "temperature": 0.7, "threshold": 0.1},
}
BY_RANK = ("smora", "mora")
WITHOUT_TENSORS = ("arrow", "mora")
_MLP = (Module.GATE, Module.UP, Module.DOWN)


@dataclass(frozen=True)
class SetOnDisk:
    """A written set.

    Attributes:
        directory: with `router_config.json`.
        members: directories of the experts, then of the shared adapters.
        config: as it was written.
        tensors: as they were written.
    """

    directory: Path
    members: list[Path]
    config: dict[str, object]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def load_args(self, shape: ModelShape = TINY) -> tuple[Path, list[Path], ModelShape]:
        return self.directory, self.members, shape

    def rewrite(self, **changes: object) -> None:
        """Write the configuration with other values; None removes a field."""
        config = {k: v for k, v in {**self.config, **changes}.items() if v is not None}
        (self.directory / "router_config.json").write_text(json.dumps(config))

    def rewrite_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        save_file(dict(tensors), self.directory / "router.safetensors")


def write_set(
    directory: Path,
    method: str = "meteora",
    *,
    shape: ModelShape = TINY,
    num_experts: int = 3,
    shared: Sequence[AdapterSpec] = (),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> SetOnDisk:
    """Write a random routed set, its experts inside, each of another rank."""
    modules = _MLP if method == "mixlora" else MODULES
    num_experts = 1 if method in BY_RANK else num_experts
    specs = [AdapterSpec(rank=3 + e, modules=modules, seed=seed + e) for e in range(num_experts)]
    experts = [_member(directory / f"experts/e{e}", shape, spec) for e, spec in enumerate(specs)]
    others = [_member(directory / f"shared/s{s}", shape, spec) for s, spec in enumerate(shared)]
    config: dict[str, object] = {
        "format_version": 1,
        "method": method,
        "base_model": {
            "name": "tiny-llama",
            "hidden_size": shape.hidden_size,
            "num_layers": shape.num_layers,
        },
        "experts": [each for each, _ in experts],
        **({"shared": [each for each, _ in others]} if others else {}),
        **METHOD_FIELDS[method],
    }
    tensors = random_gates(method, shape, num_experts, specs[0].rank, seed, dtype)
    written = SetOnDisk(directory, [path for _, path in (*experts, *others)], config, tensors)
    written.rewrite()
    if tensors:
        written.rewrite_tensors(tensors)
    return written


def random_gates(
    method: str, shape: ModelShape, num_experts: int, rank: int, seed: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of `router.safetensors`; none for methods that have none."""
    if method in WITHOUT_TENSORS:
        return {}
    generator = torch.Generator().manual_seed(1000 + seed)
    places = {"mlp": shape.hidden_size} if method == "mixlora" else None
    tensors = {}
    for layer in range(shape.num_layers):
        for place, length in (
            places or {PATHS[module]: shape.in_features(module) for module in MODULES}
        ).items():
            num_gates = rank if method == "smora" else num_experts
            if method == "mola":
                num_gates = min(num_experts, 1 + layer)
            name = f"layers.{layer}.{place}.gate"
            tensors[f"{name}.weight"] = torch.randn(num_gates, length, generator=generator).to(
                dtype
            )
            if method == "smora":
                tensors[f"{name}.bias"] = torch.randn(num_gates, generator=generator).to(dtype)
    return tensors


def _member(path: Path, shape: ModelShape, spec: AdapterSpec) -> tuple[dict[str, str], Path]:
    write_lora(path, shape, spec)
    digest = load_adapter(path, shape).digest
    where = f"{path.parent.name}/{path.name}"
    return {"name": path.name, "digest": digest, "path": where}, path
