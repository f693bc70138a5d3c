"""Deltas against PEFT's own, for adapters that PEFT wrote."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch

from motet.adapters.peft_lora import load_adapter
from motet.core.shape import ModelShape, Module
from tests.adapters.make import PATHS, TINY, tiny_llama, write_peft_lora

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Query and output projections are wider than the hidden state here, unlike in TINY.
WIDE = ModelShape(
    num_layers=2,
    hidden_size=24,
    intermediate_size=40,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=32,
)

CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "odd scaling": {"r": 6, "lora_alpha": 7, "target_modules": ALL},
    "rank-stabilised": {"r": 5, "lora_alpha": 9, "use_rslora": True, "target_modules": ALL},
    "all-linear": {"r": 2, "target_modules": "all-linear"},
    "subset": {"r": 8, "lora_alpha": 1, "target_modules": ["k_proj", "down_proj"]},
    "regex targets": {"target_modules": r".*\.[02]\.self_attn\.(q|v)_proj"},
    "look-ahead in targets": {"target_modules": r"(?!.*layers\.1)model.*\.(q|up)_proj"},
    "full paths": {"target_modules": ["model.layers.1.mlp.up_proj", "layers.0.self_attn.o_proj"]},
    "excluded": {"target_modules": ALL, "exclude_modules": ["q_proj", "layers.1.mlp.up_proj"]},
    "excluded by regex": {"target_modules": ALL, "exclude_modules": r".*self_attn.*"},
    "some layers": {"target_modules": ALL, "layers_to_transform": [0, 2], "layers_pattern": None},
    "one layer": {"target_modules": ALL, "layers_to_transform": 1, "layers_pattern": "layers"},
    "ranks by name": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 2, "down_proj": 7},
    },
    "alphas by name": {
        "r": 4,
        "target_modules": ALL,
        "alpha_pattern": {"mlp.up_proj": 3, "v_proj": 64},
    },
    # PEFT sorts the tables when it saves, and the first match wins: tables that are not in order
    # come back with another meaning, in PEFT as here.
    "overlapping expressions": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ALL,
        "rank_pattern": {
            r"^model.layers.2.mlp.*": 6,
            r"layers.\d+.self_attn.(q|k)_proj": 5,
            r"model\.layers\.[01]\..*(q|v)_proj": 3,
        },
        "alpha_pattern": {
            r".*(gate|up)_proj": 3,
            r"layers\.0\.mlp\.\w+": 5,
            r"proj": 99,
            r"q_proj|self_attn.v_proj": 11,
        },
    },
    "patterns, rank-stabilised": {
        "r": 4,
        "use_rslora": True,
        "target_modules": ALL,
        "rank_pattern": {"layers.1.self_attn.[qkv]_proj": 9},
        "alpha_pattern": {"[a-z_.]*self_attn.q_proj": 3},
    },
    "gaussian": {"init_lora_weights": "gaussian", "target_modules": ALL},
    "orthogonal": {"init_lora_weights": "orthogonal", "target_modules": ALL},
    "mica": {"init_lora_weights": "mica", "target_modules": ALL},
    "eva": {"init_lora_weights": "eva", "target_modules": ALL, "lora_dropout": 0.3},
    "velora": {"velora_config": {"num_groups": 4}, "target_modules": ALL},
    "monteclora": {"monteclora_config": {}, "target_modules": ["q_proj"]},
}


@pytest.fixture(scope="module")
def models():
    return {"tiny": (TINY, tiny_llama(TINY)), "wide": (WIDE, tiny_llama(WIDE))}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("size", ["tiny", "wide"])
def test_deltas_are_those_of_peft(models, tmp_path, size, config):
    shape, model = models[size]
    directory = write_quietly(tmp_path / "adapter", model, seed=len(str(config)), **config)
    check_against_peft(directory, shape, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_storage(models, tmp_path, dtype):
    shape, model = models["tiny"]
    directory = write_quietly(
        tmp_path / "adapter", model, dtype=dtype, r=3, lora_alpha=5, target_modules=ALL
    )
    check_against_peft(directory, shape, model)


def test_order_of_patterns_is_the_order_in_the_file(models, tmp_path):
    shape, model = models["tiny"]
    directory = write_quietly(tmp_path / "adapter", model, r=4, target_modules=ALL)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    scalings = []
    for patterns in ({"q_proj": 4, ".*": 12}, {".*": 12, "q_proj": 4}):
        path.write_text(json.dumps({**config, "alpha_pattern": patterns}))
        scalings.append(check_against_peft(directory, shape, model))
    assert not torch.equal(*scalings)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_converted_pissa_is_plain_lora(models, tmp_path, use_rslora):
    """PEFT's way to a plain LoRA: rank and alpha are doubled, and the initial factors taken off."""
    from peft import LoraConfig, get_peft_model

    shape, model = models["tiny"]
    config = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=["q_proj", "up_proj"],
        init_lora_weights="pissa",
        use_rslora=use_rslora,
    )
    peft_model = get_peft_model(copy.deepcopy(model), config)
    peft_model.peft_config["default"].init_lora_weights = True
    peft_model.save_pretrained(tmp_path / "initial")
    peft_model.peft_config["default"].init_lora_weights = "pissa"
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    tokens = torch.randint(0, shape.vocab_size, (1, 6), generator=generator)
    expected = peft_model(tokens).logits.detach()
    peft_model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "initial")
    )
    adapter = load_adapter(tmp_path / "plain", shape)
    assert adapter.max_rank == 6
    merged = copy.deepcopy(model)
    for (layer, module), delta in adapter.deltas.items():
        weight = merged.get_submodule(f"model.layers.{layer}.{PATHS[module]}").weight
        weight.data += delta.b @ delta.a
    torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def write_quietly(directory: Path, model, **config) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_peft_lora(directory, model, **config)


def check_against_peft(directory: Path, shape: ModelShape, model) -> torch.Tensor:
    """Compare with the model as PEFT loads it: the same modules, ranks and delta weights.

    Returns the delta of layer 0's query projection, or else of the first touched one.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), directory)
    adapter = load_adapter(directory, shape)
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in loaded.named_modules()
        if isinstance(layer, LoraLayer)
    }
    ours = {f"model.layers.{i}.{PATHS[m]}": delta for (i, m), delta in adapter.deltas.items()}
    assert ours.keys() == layers.keys()
    for path, delta in ours.items():
        assert delta.rank == layers[path].r["default"]
        assert delta.a.dtype == delta.b.dtype == torch.float32
        product = layers[path].get_delta_weight("default").detach()
        torch.testing.assert_close(delta.b @ delta.a, product, rtol=1e-5, atol=1e-6)
    first = adapter.deltas.get((0, Module.Q)) or next(iter(adapter.deltas.values()))
    return first.b @ first.a
