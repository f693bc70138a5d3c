"""What is refused: each with its code, and a message that names the field or tensor."""

import dataclasses
import json
import math
import warnings

import pytest
import torch

from motet.adapters.peft_config import HARMLESS, REFUSED, PeftLoraConfig, parse_lora_config
from motet.adapters.peft_lora import load_adapter
from motet.core.errors import AdapterError
from motet.core.shape import ModelShape, Module
from tests.adapters.make import (
    PATHS,
    TINY,
    AdapterSpec,
    key,
    lora_config,
    random_tensors,
    tiny_llama,
    write_files,
    write_lora,
    write_peft_lora,
)

QV = (Module.Q, Module.V)


def refusal(directory, shape=TINY) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        load_adapter(directory, shape)
    return caught.value


def test_every_field_of_peft_has_one_place():
    from peft import LoraConfig

    places = [set(PeftLoraConfig.model_fields), set(REFUSED), set(HARMLESS)]
    special = {"peft_type", "init_lora_weights"}
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= set.union(special, *places)
    assert sum(map(len, places)) == len(set.union(*places))
    assert special.isdisjoint(set.union(*places))


def test_defaults_are_those_of_peft():
    from peft import LoraConfig

    theirs = LoraConfig()
    ours = parse_lora_config({"peft_type": "LORA"})
    assert (ours.r, ours.lora_alpha, ours.use_rslora) == (theirs.r, theirs.lora_alpha, False)
    saved = theirs.to_dict() | {"target_modules": ["q_proj"]}
    parse_lora_config(json.loads(json.dumps(saved)))


BY_PEFT = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "all"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "target_modules": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora_embedding_A": {"target_modules": r".*(embed_tokens|q_proj)"},
    "lm_head": {"target_modules": r".*(lm_head|q_proj)"},
    "trainable_token_indices": {"trainable_token_indices": [1, 2]},
    "layer_replication": {"layer_replication": [[0, 2], [1, 3]]},
    "alora_invocation_tokens": {"alora_invocation_tokens": [3, 4]},
    "kasa_config": {"kasa_config": {}},
    "use_bdlora": {"use_bdlora": {"nblocks": 2, "target_modules_bd_a": ["q_proj"]}},
    "init_lora_weights": {"init_lora_weights": "pissa"},
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
}


@pytest.mark.parametrize("named", BY_PEFT)
def test_refused_as_peft_saves_it(tmp_path, named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"target_modules": ["q_proj"], **BY_PEFT[named]}
        directory = write_peft_lora(tmp_path / "adapter", tiny_llama(), **settings)
    error = refusal(directory)
    assert error.code == "unsupported_adapter"
    assert named in error.message


CONFIGS = {
    "other method": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "no method": ({"peft_type": None}, "peft_type"),
    "method of another type": ({"peft_type": ["LORA"]}, "peft_type"),
    "bias of LoRA alone": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
    "experts": ({"target_parameters": ["experts.up"]}, "target_parameters"),
    "arrow": ({"arrow_config": {"top_k": 2}}, "arrow_config"),
    "empty kasa": ({"kasa_config": {}}, "kasa_config"),
    "a number for a switch": ({"use_dora": 1}, "use_dora"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "corda": ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "unknown init": ({"init_lora_weights": "magic"}, "init_lora_weights is 'magic'"),
    "init of another type": ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
    "unknown field": ({"use_warp": True}, "'use_warp'"),
    "unknown number": ({"warp": 0}, "'warp'"),
    "lm_head by path": ({"target_modules": ["q_proj", "v_proj", "model.lm_head"]}, "lm_head"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_refused_configuration(tmp_path, case):
    changes, words = CONFIGS[case]
    error = refusal(write_lora(tmp_path / "a", spec=AdapterSpec(modules=QV, config=changes)))
    assert error.code == "unsupported_adapter"
    assert words in error.message


INVALID = {
    "rank 0": ({"r": 0}, "'r' is 0"),
    "negative rank": ({"r": -4}, "'r'"),
    "rank as text": ({"r": "4"}, "'r'"),
    "rank as a fraction": ({"r": 4.5}, "'r'"),
    "rank as a switch": ({"r": True}, "'r'"),
    "alpha 0": ({"lora_alpha": 0}, "'lora_alpha'"),
    "negative alpha": ({"lora_alpha": -1}, "'lora_alpha'"),
    "alpha as text": ({"lora_alpha": "8"}, "'lora_alpha'"),
    "alpha without bound": ({"lora_alpha": 10**400}, "'lora_alpha'"),
    "alpha too large": ({"lora_alpha": 1e300}, "lora_alpha"),
    "rank in a pattern": ({"rank_pattern": {"q_proj": 0}}, "'rank_pattern.q_proj'"),
    "alpha in a pattern": ({"alpha_pattern": {"q_proj": -2}}, "'alpha_pattern.q_proj'"),
    "rslora as text": ({"use_rslora": "yes"}, "'use_rslora'"),
    "targets as a number": ({"target_modules": 7}, "target_modules"),
    "other rank": ({"r": 8}, "has rank 4, but r and rank_pattern give 8"),
    "other rank by pattern": ({"rank_pattern": {"v_proj": 2}}, "layers.0.self_attn.v_proj"),
    "untargeted tensor": ({"target_modules": ["q_proj"]}, "target_modules does not name it"),
    "untargeted by regex": ({"target_modules": r".*layers\.[01].*"}, "model.layers.2"),
    "excluded tensor": ({"exclude_modules": ["v_proj"]}, "exclude_modules"),
    "excluded by regex": ({"exclude_modules": r".*layers\.1.*"}, "exclude_modules"),
    "excluded layer": ({"layers_to_transform": [0, 1]}, "layers_to_transform leaves out layer 2"),
    "one layer": ({"layers_to_transform": 1}, "layers_to_transform leaves out layer 0"),
    "absent target": ({"target_modules": ["q_proj", "v_proj", "up_proj"]}, "'up_proj'"),
    "broken pattern": ({"alpha_pattern": {"(q_proj": 2}}, "alpha_pattern has the pattern"),
    "look-ahead": ({"alpha_pattern": {"(?=q)q_proj": 2}}, "look-around"),
    "back-reference": ({"rank_pattern": {r"(q)\1": 2}}, "rank_pattern has the pattern"),
    "inline flag": ({"rank_pattern": {"(?i)Q_PROJ": 2}}, "inline flags"),
    "nested set": ({"rank_pattern": {"[[q]]_proj": 2}}, "nested sets"),
    "swelling pattern": ({"rank_pattern": {r"(\w{99}){99}": 2}}, "size limit"),
    "long pattern": ({"rank_pattern": {"q?" * 400: 2}}, "longer than"),
    "many patterns": ({"rank_pattern": {f"x{i}+": 4 for i in range(300)}}, "300 regular"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_configuration(tmp_path, case):
    changes, words = INVALID[case]
    error = refusal(write_lora(tmp_path / "a", spec=AdapterSpec(modules=QV, config=changes)))
    assert error.code == "invalid_adapter"
    assert words in error.message


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": None, "alpha_pattern": None, "use_rslora": None, "target_modules": None},
        {"modules_to_save": [], "layer_replication": [], "trainable_token_indices": {}},
        {"use_warp": False, "warp": None, "warps": [], "warping": {}, "warped": ""},
        {"init_lora_weights": False, "lora_dropout": 0.9, "megatron_core": None},
        {"init_lora_weights": "EVA", "eva_config": {"rho": 2.0}, "layers_to_transform": []},
        {"target_modules": ["q_proj", "v_proj", "fc1", "layers.7.mlp"]},
        {
            "target_modules": ["self_attn.q_proj", "v_proj", "up_proj"],
            "exclude_modules": "up_proj|.*up_proj",
        },
        {"alpha_pattern": {r"(\w+\.?)+!": 3}},
    ],
)
def test_fields_without_effect(tmp_path, changes):
    plain = load_adapter(write_lora(tmp_path / "a", spec=AdapterSpec(modules=QV)), TINY)
    spec = AdapterSpec(modules=QV, config=changes)
    assert load_adapter(write_lora(tmp_path / "b", spec=spec), TINY).digest == plain.digest


TENSORS = {
    "model.layers.0.self_attn.q_proj.lora_magnitude_vector": "use_dora",
    "model.layers.0.self_attn.q_proj.lora_B.bias": "bias",
    "model.layers.0.self_attn.q_proj.base_layer.bias": "bias",
    "model.layers.0.self_attn.q_proj.lora_diag": "kasa_config",
    "model.layers.0.self_attn.q_proj.lora_E": "AdaLoRA",
    "model.embed_tokens.lora_embedding_A": "embeddings",
    "model.embed_tokens.weight": "embeddings",
    "model.embed_tokens.token_adapter.trainable_tokens_delta": "embed",
    "lm_head.weight": "output layer",
    "lm_head.lora_A.weight": "output layer",
    "model.layers.0.self_attn.qkv_proj.lora_A.weight": "fused",
    "model.layers.0.mlp.experts.0.up_proj.lora_A.weight": "mixture-of-experts",
    "model.layers.0.mlp.q_proj.lora_A.weight": "Expected names like",
    "model.layers.00.self_attn.q_proj.lora_A.weight": "Expected names like",
    "model.layers.0.self_attn.q_proj.weight": "Expected names like",
    "model.layers.0.self_attn.q_proj.lora_A.other.weight": "Expected names like",
    "model.layers.٣.self_attn.q_proj.lora_A.weight": "Expected names like",
    "line\nbreak": "Expected names like",
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_that_is_not_lora(tmp_path, name):
    spec = AdapterSpec(modules=QV)
    tensors = random_tensors(TINY, spec)
    tensors["base_model.model." + name] = torch.zeros(4, 32)
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    assert error.code == "unsupported_adapter"
    assert repr("base_model.model." + name) in error.message
    assert TENSORS[name] in error.message
    assert "\n" not in error.message


def test_names_without_the_usual_prefix(tmp_path):
    spec = AdapterSpec(modules=QV)
    stripped = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in random_tensors(TINY, spec).items()
    }
    error = refusal(write_files(tmp_path / "a", lora_config(spec), stripped))
    assert error.code == "unsupported_adapter"
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in error.message


def test_adapter_name_in_the_keys(tmp_path):
    plain = write_lora(tmp_path / "a", spec=AdapterSpec(seed=5))
    named = write_lora(tmp_path / "b", spec=AdapterSpec(seed=5, segment="default"))
    assert load_adapter(plain, TINY).digest == load_adapter(named, TINY).digest


def test_factor_under_two_names(tmp_path):
    spec = AdapterSpec()
    tensors = random_tensors(TINY, spec)
    name = key(1, Module.Q, "A")
    tensors[key(1, Module.Q, "A", "default")] = tensors[name].clone()
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    assert error.code == "invalid_adapter"
    assert name in error.message


@pytest.mark.parametrize("factor", ["A", "B"])
def test_half_a_pair(tmp_path, factor):
    spec = AdapterSpec()
    tensors = random_tensors(TINY, spec)
    del tensors[key(1, Module.DOWN, factor)]
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    kept = key(1, Module.DOWN, "B" if factor == "A" else "A")
    assert error.code == "invalid_adapter"
    assert kept in error.message
    assert f"no lora_{factor}" in error.message


def test_no_tensors(tmp_path):
    error = refusal(write_files(tmp_path / "a", lora_config(AdapterSpec()), {}))
    assert error.code == "invalid_adapter"
    assert "no LoRA tensors" in error.message


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_finite(tmp_path, factor, value, dtype):
    spec = AdapterSpec(dtype=dtype)
    tensors = random_tensors(TINY, spec)
    name = key(2, Module.UP, factor)
    tensors[name][-1, -1] = value
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    assert error.code == "invalid_adapter"
    assert name in error.message


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.float64, torch.float8_e4m3fn, torch.uint8, torch.bool]
)
def test_other_dtypes(tmp_path, dtype):
    spec = AdapterSpec()
    tensors = random_tensors(TINY, spec)
    name = key(0, Module.K, "A")
    tensors[name] = tensors[name].to(dtype)
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    assert error.code == "unsupported_adapter"
    assert name in error.message
    assert "bfloat16" in error.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 2}, "layer 2, but the base model has 2 layers"),
        ({"hidden_size": 40}, "shape [4, 32]; expected [rank, 40]"),
        ({"intermediate_size": 56}, "shape [48, 4]; expected [56, rank]"),
        ({"num_kv_heads": 2}, "shape [16, 4]; expected [32, rank]"),
        ({"head_dim": 32}, "expected [64, rank]"),
    ],
)
def test_other_base(tmp_path, changes, words):
    sizes = {name: getattr(TINY, name) for name in TINY.__struct_fields__}
    error = refusal(write_lora(tmp_path / "a"), ModelShape(**{**sizes, **changes}))
    assert error.code == "wrong_base_model"
    assert words in error.message
    assert "another base" in error.message
    assert "base_model.model.model.layers." in error.message


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((0, 32), (32, 0)), "rank 0"),
        (((4, 32), (32, 5)), "rank 4, and"),
        (((128,), (32, 4)), "expected [rank, 32]"),
        (((4, 32), (0,)), "expected [32, rank]"),
        (((1, 4, 32), (32, 4)), "expected [rank, 32]"),
        (((), (32, 4)), "expected [rank, 32]"),
    ],
)
def test_malformed_factors(tmp_path, shapes, words):
    spec = AdapterSpec()
    tensors = random_tensors(TINY, spec)
    for factor, size in zip("AB", shapes, strict=True):
        tensors[key(0, Module.Q, factor)] = torch.zeros(size)
    error = refusal(write_files(tmp_path / "a", lora_config(spec), tensors))
    assert error.code == "invalid_adapter"
    assert words in error.message
    assert f"{PATHS[Module.Q]}.lora_" in error.message


def test_modules_and_ranks_that_differ_by_layer(tmp_path):
    ranks = {(0, Module.Q): 1, (2, Module.V): 7, (1, Module.Q): 16}
    spec = AdapterSpec(modules=QV, ranks=ranks, use_rslora=True, seed=3)
    tensors = random_tensors(TINY, spec)
    for factor in "AB":
        del tensors[key(0, Module.V, factor)]
    adapter = load_adapter(write_files(tmp_path / "a", lora_config(spec), tensors), TINY)
    assert [adapter.rank(i, m) for i in range(3) for m in QV] == [1, 0, 16, 4, 4, 7]
    assert adapter.rank(0, Module.GATE) == 0
    assert adapter.max_rank == 16
    assert adapter.modules == QV
    assert adapter.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert adapter.base_model_name == "tiny-llama"
    for (layer, module), delta in adapter.deltas.items():
        b = tensors[key(layer, module, "B")] * (8 / math.sqrt(delta.rank))
        torch.testing.assert_close(delta.b, b)
        torch.testing.assert_close(delta.a, tensors[key(layer, module, "A")], rtol=0, atol=0)
