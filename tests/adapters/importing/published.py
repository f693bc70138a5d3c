"""Checkpoints in the layouts that others publish, and the equations they publish with them.

Each layout is written by hand, with random tensors, and comes with a plain PyTorch forward over
those very tensors, in float64. Nothing here uses what converts or computes them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from motet.core.shape import MODULES, ModelShape, Module
from tests.adapters.make import PATHS, TINY

MLP = {Module.GATE: "gate_proj", Module.UP: "up_proj", Module.DOWN: "down_proj"}
LEGACY = {"gate_proj": "w1_proj", "down_proj": "w2_proj", "up_proj": "w3_proj"}
ATTENTION = (Module.Q, Module.K, Module.V, Module.O)
Tensors = dict[str, Tensor]


@dataclass
class Published:
    """A checkpoint on disk.

    Attributes:
        source: the directory to convert.
        tensors: under their names in it.
        adapters: of MeteoRA's tasks.
        config: `adapter_config.json`, if there is one.
    """

    source: Path
    tensors: Tensors
    adapters: Path | None = None
    config: dict[str, object] = field(default_factory=dict)

    def rewrite(self, tensors: Mapping[str, Tensor] | None = None, **config: object) -> None:
        """Write other tensors, or a configuration with other values (None removes one)."""
        if tensors is not None:
            for path in self.source.glob("*.safetensors"):
                save_file(dict(tensors), path)
        if config:
            kept = {k: v for k, v in {**self.config, **config}.items() if v is not None}
            (self.source / "adapter_config.json").write_text(json.dumps(kept))


class _Random:
    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def matrix(self, rows: int, columns: int, scale: float = 0.3) -> Tensor:
        values = torch.randn(rows, columns, generator=self._generator) * scale
        return values.to(self._dtype)


def _save(directory: Path, tensors: Tensors, config: Mapping[str, object]) -> Path:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


# MeteoRA.

TASKS = ("zebra", "alpha", "midway")
ALPHAS = {"zebra": 8, "alpha": 16, "midway": 4}
RSLORA = "midway"
RANKS = {"zebra": 4, "alpha": 4, "midway": 2}


def write_meteora(
    root: Path, shape: ModelShape = TINY, *, shards: int = 1, dtype: torch.dtype = torch.float32
) -> Published:
    """A whole model with stacked factors, and the configurations of its task adapters."""
    random = _Random(1, dtype)
    total = sum(RANKS.values())
    tensors: Tensors = {
        "base_model.model.model.embed_tokens.weight": random.matrix(shape.vocab_size, 32),
        "base_model.model.model.norm.weight": torch.ones(shape.hidden_size),
        "base_model.model.lm_head.weight": random.matrix(shape.vocab_size, shape.hidden_size),
    }
    for i in range(shape.num_layers):
        layer = f"base_model.model.model.layers.{i}"
        tensors[f"{layer}.input_layernorm.weight"] = torch.ones(shape.hidden_size)
        for module, path in PATHS.items():
            width, height = shape.in_features(module), shape.out_features(module)
            tensors[f"{layer}.{path}.base_layer.weight"] = random.matrix(height, width)
            tensors[f"{layer}.{path}.moe_gate.weight"] = random.matrix(len(TASKS), width)
            tensors[f"{layer}.{path}.lora_A.weight"] = random.matrix(total, width)
            tensors[f"{layer}.{path}.lora_B.weight"] = random.matrix(height, total)
    source = root / "meteora"
    source.mkdir(parents=True)
    _save_shards(source, tensors, shards)
    for task in TASKS:
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": "tiny-llama",
            "r": RANKS[task],
            "lora_alpha": ALPHAS[task],
            "use_rslora": task == RSLORA,
            "target_modules": [path.partition(".")[2] for path in PATHS.values()],
        }
        (root / "tasks" / task).mkdir(parents=True)
        (root / "tasks" / task / "adapter_config.json").write_text(json.dumps(config))
    return Published(source, tensors, root / "tasks")


def _save_shards(source: Path, tensors: Tensors, shards: int) -> None:
    if shards == 1:
        save_file(tensors, source / "model.safetensors")
        return
    weight_map = {}
    for s in range(shards):
        name = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[s::shards])
        save_file(part, source / name)
        weight_map |= dict.fromkeys(part, name)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def meteora_delta(
    tensors: Tensors, layer: int, module: Module, x: Tensor, *, top_k: int, temperature: float
) -> Tensor:
    """What MeteoRA's linear adds to W x (arXiv:2405.13053)."""
    prefix = f"base_model.model.model.layers.{layer}.{PATHS[module]}"
    gate, a, b = (
        tensors[f"{prefix}.{name}.weight"].double() for name in ("moe_gate", "lora_A", "lora_B")
    )
    best, chosen = (x @ gate.T).topk(top_k)
    weights = (best / temperature).softmax(-1)
    out = torch.zeros(len(x), len(b), dtype=torch.float64)
    start = 0
    for task_index, task in enumerate(TASKS):
        rank = RANKS[task]
        scaling = ALPHAS[task] / (math.sqrt(rank) if task == RSLORA else rank)
        delta = x @ a[start : start + rank].T @ b[:, start : start + rank].T * scaling
        out += delta * (weights * (chosen == task_index)).sum(-1, keepdim=True)
        start += rank
    return out


# MixLoRA.


def write_mixlora(root: Path, shape: ModelShape = TINY, *, is_legacy: bool = False) -> Published:
    """Factors of three experts for the MLP, and of plain LoRA for attention."""
    random = _Random(2, torch.float32)
    tensors: Tensors = {}
    for i in range(shape.num_layers):
        layer = f"mixlora.layers.{i}"
        gate = f"{layer}.gate.weight" if is_legacy else f"{layer}.mlp.moe_gate.weight"
        tensors[gate] = random.matrix(3, shape.hidden_size)
        for module in ATTENTION:
            _add_pair(tensors, f"{layer}.{PATHS[module]}", random, shape, module, 4)
        for e in range(3):
            for module, name in MLP.items():
                new = f"{layer}.mlp.{name}.experts.{e}"
                old = f"{layer}.experts.{e}.{LEGACY[name]}"
                _add_pair(tensors, old if is_legacy else new, random, shape, module, 2)
    config = {
        "bias": "none",
        "peft_type": "MIXLORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", *MLP.values()],
        "expert_lora": {"r": 2, "lora_alpha": 6, "lora_dropout": 0.05},
        "routing_strategy": "mixtral" if is_legacy else "mixlora",
        "num_experts": 3,
        "top_k": 2,
    }
    source = _save(root / "mixlora", tensors, config)
    return Published(source, tensors, config=config)


def mixlora_mlp(
    published: Published, layer: int, x: Tensor, base: Mapping[Module, Tensor], *, is_legacy: bool
) -> Tensor:
    """A whole MLP of MixLoRA, one FFN for each expert (arXiv:2404.15159)."""
    tensors = published.tensors
    prefix = f"mixlora.layers.{layer}"
    gate = tensors[f"{prefix}.gate.weight" if is_legacy else f"{prefix}.mlp.moe_gate.weight"]
    weights = (x @ gate.double().T).softmax(-1)
    weights, chosen = weights.topk(2)
    weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(x)
    for e in range(3):

        def project(values: Tensor, module: Module, e: int = e) -> Tensor:
            name = MLP[module]
            new, old = f"mlp.{name}.experts.{e}", f"experts.{e}.{LEGACY[name]}"
            stem = f"{prefix}.{old if is_legacy else new}"
            a, b = (tensors[f"{stem}.lora_{f}.weight"].double() for f in "AB")
            return values @ (base[module] + 6 / 2 * b @ a).T

        hidden = F.silu(project(x, Module.GATE)) * project(x, Module.UP)
        out += project(hidden, Module.DOWN) * (weights * (chosen == e)).sum(-1, keepdim=True)
    return out


# MoLA.

EXPERTS_BY_LAYER = (2, 3, 4)
RANKS_BY_LAYER = (4, 2, 4)


def write_mola(root: Path, shape: ModelShape = TINY, *, is_fork: bool) -> Published:
    """Experts by layer, as the authors' fork of PEFT has them; or as many in all, as MoE-PEFT."""
    random = _Random(3, torch.float32)
    tensors: Tensors = {}
    for i in range(shape.num_layers):
        num_experts, rank = (EXPERTS_BY_LAYER[i], RANKS_BY_LAYER[i]) if is_fork else (3, 4)
        for module in MODULES:
            fork = f"base_model.model.model.layers.{i}.{PATHS[module]}"
            moe_peft = f"mola.layers.{i}.{PATHS[module]}"
            gate = f"{fork}.router.router.weight" if is_fork else f"{moe_peft}.moe_gate.weight"
            tensors[gate] = random.matrix(num_experts, shape.in_features(module))
            for e in range(num_experts):
                a, b = _pair(random, shape, module, rank)
                for factor, value in (("A", a), ("B", b)):
                    new = f"{moe_peft}.experts.{e}.lora_{factor}.weight"
                    tensors[f"{fork}.lora_{factor}_{e}.weight" if is_fork else new] = value
    config: dict[str, object] = {
        "bias": "none",
        "r": list(RANKS_BY_LAYER) if is_fork else 4,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": [path.partition(".")[2] for path in PATHS.values()],
    }
    if is_fork:
        config |= {
            "peft_type": "LORA",
            "base_model_name_or_path": "tiny-llama",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "layers_pattern": None,
            "layers_to_transform": None,
            "modules_to_save": None,
            "task_type": "CAUSAL_LM",
        }
    else:
        config |= {"peft_type": "MOLA", "routing_strategy": "mola", "num_experts": 3, "top_k": 2}
    return Published(_save(root / "mola", tensors, config), tensors, config=config)


def mola_delta(tensors: Tensors, layer: int, module: Module, x: Tensor, *, is_fork: bool) -> Tensor:
    """What MoLA's linear adds to W x (arXiv:2402.08562), top 2."""
    fork = f"base_model.model.model.layers.{layer}.{PATHS[module]}"
    moe_peft = f"mola.layers.{layer}.{PATHS[module]}"
    gate = tensors[f"{fork}.router.router.weight" if is_fork else f"{moe_peft}.moe_gate.weight"]
    weights, chosen = (x @ gate.double().T).softmax(-1).topk(2)
    weights = weights / weights.sum(-1, keepdim=True)
    scaling = 16 / (RANKS_BY_LAYER[layer] if is_fork else 4)
    out: Tensor | None = None
    for e in range(len(gate)):
        a, b = (
            tensors[
                f"{fork}.lora_{f}_{e}.weight"
                if is_fork
                else f"{moe_peft}.experts.{e}.lora_{f}.weight"
            ].double()
            for f in "AB"
        )
        delta = x @ a.T @ b.T * scaling * (weights * (chosen == e)).sum(-1, keepdim=True)
        out = delta if out is None else out + delta
    assert out is not None
    return out


def _pair(random: _Random, shape: ModelShape, module: Module, rank: int) -> tuple[Tensor, Tensor]:
    a = random.matrix(rank, shape.in_features(module))
    return a, random.matrix(shape.out_features(module), rank)


def _add_pair(
    tensors: Tensors, stem: str, random: _Random, shape: ModelShape, module: Module, rank: int
) -> None:
    a, b = _pair(random, shape, module, rank)
    tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = a, b
