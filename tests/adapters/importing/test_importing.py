"""Each layout as it is published, against the equations that are published with it."""

import json
from functools import partial

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.adapters.importing.imported import ImportOptions
from motet.adapters.importing.layouts import LAYOUTS, import_router
from motet.adapters.importing.meteora import RELEASED_TASKS
from motet.adapters.peft_lora import load_adapter
from motet.adapters.router_config import read_router_config
from motet.core.errors import AdapterError
from motet.core.shape import MODULES, Module
from tests.adapters.importing.published import (
    ATTENTION,
    EXPERTS_BY_LAYER,
    MLP,
    TASKS,
    meteora_delta,
    mixlora_mlp,
    mola_delta,
    write_meteora,
    write_mixlora,
    write_mola,
)
from tests.adapters.importing.routed import convert, load_converted, routed_delta, routed_mlp
from tests.adapters.make import TINY, tiny_llama

WRITERS = {
    "meteora": write_meteora,
    "mixlora": write_mixlora,
    "mola": partial(write_mola, is_fork=False),
}
EVERYWHERE = [(i, m) for i in range(TINY.num_layers) for m in MODULES]


def inputs(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, length, generator=generator, dtype=torch.float64)


def refused(layout, published, out, **options) -> tuple[str, str]:
    with pytest.raises(AdapterError) as caught:
        convert(layout, published, out, **options)
    assert not out.exists()
    assert not list(out.parent.glob("*.partial"))
    return caught.value.code, caught.value.message


# MeteoRA.


@pytest.mark.parametrize(("shards", "dtype"), [(1, torch.float32), (3, torch.bfloat16)])
@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 15.0)])
def test_meteora(tmp_path, shards, dtype, top_k, temperature):
    published = write_meteora(tmp_path, shards=shards, dtype=dtype)
    rule = {"top_k": top_k, "temperature": temperature}
    config = convert("meteora", published, tmp_path / "out", order=TASKS, **rule)
    assert [expert.name for expert in config.experts] == list(TASKS)
    routed = load_converted(tmp_path / "out", config)
    for layer, module in EVERYWHERE:
        x = inputs(TINY.in_features(module))
        expected = meteora_delta(published.tensors, layer, module, x, **rule)
        actual = routed_delta(routed, layer, module, x)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_meteora_defaults(tmp_path):
    published = write_meteora(tmp_path)
    config = convert("meteora", published, tmp_path / "out", order=TASKS)
    assert (config.rule.top_k, config.rule.temperature) == (2, 1.0)
    assert config.base.name == "tiny-llama"


def test_meteora_needs_its_adapters(tmp_path):
    published = write_meteora(tmp_path)
    out = tmp_path / "out"
    assert "--adapters" in refused("meteora", published, out, adapters=None)[1]
    assert "not a directory" in refused("meteora", published, out, adapters=tmp_path / "no")[1]
    assert "--order a,b,c" in refused("meteora", published, out)[1]
    assert "has 3 gates, but 2" in refused("meteora", published, out, order=TASKS[:2])[1]
    assert "twice" in refused("meteora", published, out, order=["zebra"] * 3)[1]
    assert "'lost'" in refused("meteora", published, out, order=["zebra", "alpha", "lost"])[1]
    assert "cannot be the name" in refused("meteora", published, out, order=["../tasks/zebra"])[1]


def test_meteora_released_order(tmp_path):
    published = write_meteora(tmp_path)
    assert len(RELEASED_TASKS) == 28
    assert list(RELEASED_TASKS) == sorted(RELEASED_TASKS)
    config = (published.adapters / "zebra/adapter_config.json").read_text()
    for task in RELEASED_TASKS:
        (published.adapters / task).mkdir()
        (published.adapters / task / "adapter_config.json").write_text(config)
    assert "but 28 adapters" in refused("meteora", published, tmp_path / "out")[1]


def test_meteora_ranks_that_do_not_add_up(tmp_path):
    published = write_meteora(tmp_path)
    path = published.adapters / "alpha/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 5}))
    assert "add up to 11" in refused("meteora", published, tmp_path / "out", order=TASKS)[1]


def test_a_missing_shard(tmp_path):
    published = write_meteora(tmp_path, shards=3)
    next(published.source.glob("*-00002-*")).unlink()
    code, message = refused("meteora", published, tmp_path / "out", order=TASKS)
    assert code == "corrupt_adapter"
    assert "all shards" in message


def test_a_tensor_that_is_neither_the_bases_nor_known(tmp_path):
    published = write_meteora(tmp_path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    published.rewrite({**published.tensors, name: torch.ones(4)})
    assert name in refused("meteora", published, tmp_path / "out", order=TASKS)[1]


# MixLoRA.


@pytest.mark.parametrize("is_legacy", [False, True])
def test_mixlora(tmp_path, is_legacy):
    published = write_mixlora(tmp_path, is_legacy=is_legacy)
    config = convert("mixlora", published, tmp_path / "out")
    assert config.rule.per_block
    routed = load_converted(tmp_path / "out", config)
    generator = torch.Generator().manual_seed(5)
    base = {
        module: torch.randn(
            TINY.out_features(module), TINY.in_features(module), generator=generator
        ).double()
        * 0.2
        for module in MLP
    }
    for layer in range(TINY.num_layers):
        x = inputs(TINY.hidden_size, seed=layer)
        expected = mixlora_mlp(published, layer, x, base, is_legacy=is_legacy)
        actual = routed_mlp(routed, layer, x, base)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    (shared,) = routed.shared
    for layer in range(TINY.num_layers):
        for module in ATTENTION:
            name = f"mixlora.layers.{layer}.self_attn.{module.name.lower()}_proj"
            a, b = (published.tensors[f"{name}.lora_{f}.weight"] for f in "AB")
            delta = shared.deltas[layer, module]
            torch.testing.assert_close(delta.b @ delta.a, b @ a * 2, atol=1e-5, rtol=1e-5)


def test_mixlora_without_attention(tmp_path):
    published = write_mixlora(tmp_path)
    published.rewrite({k: t for k, t in published.tensors.items() if "self_attn" not in k})
    config = convert("mixlora", published, tmp_path / "out", top_k=1)
    assert config.shared == ()
    assert config.rule.top_k == 1
    load_converted(tmp_path / "out", config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"routing_strategy": "mixlora-dynamic"}, "sum of probabilities"),
        ({"routing_strategy": None}, "routing_strategy"),
        ({"act_fn": "gelu"}, "another activation"),
        ({"num_experts": 4}, "num_experts is 4"),
        ({"use_dora": True}, "DoRA"),
        ({"r": 3}, "rank"),
        ({"expert_lora": [1]}, "expert_lora"),
        ({"expert_lora": {"r": 3, "lora_alpha": 6}}, "rank"),
        ({"top_k": 9}, "top_k is 9"),
        ({"top_k": "two"}, "top_k is 'two'"),
        ({"novelty": 1}, "novelty"),
        ({"peft_type": "LORA"}, "expected 'MIXLORA'"),
        ({"peft_type": "XLORA"}, "first forward pass"),
    ],
)
def test_mixlora_refused(tmp_path, changes, words):
    published = write_mixlora(tmp_path)
    published.rewrite(**changes)
    assert words in refused("mixlora", published, tmp_path / "out")[1]


# MoLA.


@pytest.mark.parametrize("is_fork", [False, True])
def test_mola(tmp_path, is_fork):
    published = write_mola(tmp_path, is_fork=is_fork)
    config = convert("mola", published, tmp_path / "out")
    assert len(config.experts) == (max(EXPERTS_BY_LAYER) if is_fork else 3)
    routed = load_converted(tmp_path / "out", config)
    for layer, module in EVERYWHERE:
        assert len(routed.gates[layer, module]) == (EXPERTS_BY_LAYER[layer] if is_fork else 3)
        x = inputs(TINY.in_features(module))
        expected = mola_delta(published.tensors, layer, module, x, is_fork=is_fork)
        actual = routed_delta(routed, layer, module, x)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_mola_with_the_adapters_name_in_its_keys(tmp_path):
    published = write_mola(tmp_path, is_fork=True)
    plain = convert("mola", published, tmp_path / "plain")
    renamed = {
        name.replace("lora_A_", "lora_A.default_").replace("lora_B_", "lora_B.default_"): tensor
        for name, tensor in published.tensors.items()
    }
    published.rewrite(renamed)
    assert convert("mola", published, tmp_path / "out").experts == plain.experts


@pytest.mark.parametrize(
    ("is_fork", "changes", "words"),
    [
        (True, {"r": [4, 2]}, "a rank for each of 3 layers"),
        (True, {"r": [4, 2, "x"]}, "a rank for each of 3 layers"),
        (True, {"r": [4, 4, 4]}, "rank"),
        (True, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (True, {"peft_type": "XLORA"}, "first forward pass"),
        (False, {"num_experts": 2}, "num_experts is 2"),
        (False, {"peft_type": "MIXLORA"}, "expected 'MOLA'"),
    ],
)
def test_mola_refused(tmp_path, is_fork, changes, words):
    published = write_mola(tmp_path, is_fork=is_fork)
    published.rewrite(**changes)
    assert words in refused("mola", published, tmp_path / "out")[1]


# All layouts.


def all_options(layout: str) -> dict[str, object]:
    return {"order": TASKS} if layout == "meteora" else {}


def test_every_layout_is_tested():
    assert WRITERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", WRITERS)
def test_what_is_written(tmp_path, layout):
    published = WRITERS[layout](tmp_path)
    out = tmp_path / "some/where/out"
    config = convert(layout, published, out, **all_options(layout))
    assert read_router_config(out) == config
    assert config.method == layout
    for member in config.members:
        assert load_adapter(out / member.path, TINY).digest == member.digest
    card = (out / "README.md").read_text()
    assert all(member.digest in card for member in config.members)
    assert str(tmp_path) not in card + (out / "router_config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_peft_reads_the_experts(tmp_path, layout):
    from peft import PeftModel  # it takes seconds to import

    published = WRITERS[layout](tmp_path)
    config = convert(layout, published, tmp_path / "out", **all_options(layout))
    for member in config.members:
        directory = tmp_path / "out" / member.path
        model = PeftModel.from_pretrained(tiny_llama(), directory)
        ours = load_adapter(directory, TINY).deltas
        for (layer, module), delta in ours.items():
            path = f"layers.{layer}.{'mlp' if module >= Module.GATE else 'self_attn'}"
            name = f"base_model.model.model.{path}.{module.name.lower()}_proj"
            theirs = model.get_submodule(name).get_delta_weight("default")
            torch.testing.assert_close(delta.b @ delta.a, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", WRITERS)
def test_nothing_is_overwritten(tmp_path, layout):
    published = WRITERS[layout](tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(AdapterError, match="exists"):
        convert(layout, published, out, **all_options(layout))
    out.rmdir()
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(AdapterError, match="earlier try"):
        convert(layout, published, out, **all_options(layout))


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        ("meteora", "base_model.model.model.layers.1.mlp.up_proj.moe_gate.weight"),
        ("meteora", "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"),
        ("mixlora", "mixlora.layers.1.mlp.moe_gate.weight"),
        ("mixlora", "mixlora.layers.1.mlp.up_proj.experts.2.lora_A.weight"),
        ("mixlora", "mixlora.layers.1.self_attn.q_proj.lora_B.weight"),
        ("mola", "mola.layers.1.mlp.up_proj.moe_gate.weight"),
        ("mola", "mola.layers.1.mlp.up_proj.experts.1.lora_B.weight"),
    ],
)
def test_incomplete_files(tmp_path, layout, missing):
    published = WRITERS[layout](tmp_path)
    del published.tensors[missing]
    published.rewrite(published.tensors)
    message = refused(layout, published, tmp_path / "out", **all_options(layout))[1]
    assert "incomplete" in message


@pytest.mark.parametrize("expert", [0, 2])
def test_a_missing_expert(tmp_path, expert):
    published = write_mola(tmp_path, is_fork=False)
    part = f"layers.1.mlp.up_proj.experts.{expert}."
    published.rewrite({k: t for k, t in published.tensors.items() if part not in k})
    message = refused("mola", published, tmp_path / "out")[1]
    assert "3 gates, and factors of 2 experts" in message


@pytest.mark.parametrize("layout", WRITERS)
def test_pickles(tmp_path, layout):
    published = WRITERS[layout](tmp_path)
    (weights,) = published.source.glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    (published.source / "optimizer.pt").touch()
    code, message = refused(layout, published, tmp_path / "out", **all_options(layout))
    assert code == "unsupported_format"
    assert f"{weights.stem}.bin" in message
    assert "weights_only=True" in message


@pytest.mark.parametrize("layout", WRITERS)
def test_bad_files(tmp_path, layout):
    published = WRITERS[layout](tmp_path)
    (weights,) = published.source.glob("*.safetensors")
    options = all_options(layout)
    tensors = published.tensors
    gate = next(name for name in tensors if name.endswith("gate.weight"))
    for value, words in (
        (torch.full_like(tensors[gate], torch.nan), "NaN"),
        (tensors[gate].double(), "F64"),
        (tensors[gate][0].clone(), "expected a matrix"),
        (torch.tensor(1.0), "expected a matrix"),
    ):
        published.rewrite({**tensors, gate: value})
        assert words in refused(layout, published, tmp_path / "out", **options)[1]
    weights.write_bytes(b"garbage")
    assert refused(layout, published, tmp_path / "out", **options)[0] == "corrupt_adapter"
    weights.unlink()
    assert "no .safetensors" in refused(layout, published, tmp_path / "out", **options)[1]


def test_options_of_another_layout(tmp_path):
    published = write_mixlora(tmp_path)
    message = refused("mixlora", published, tmp_path / "out", order=["a"])[1]
    assert "for meteora" in message


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": 4}, {"temperature": 0.0}])
def test_options_that_cannot_be(tmp_path, options):
    published = write_mixlora(tmp_path)
    assert next(iter(options)) in refused("mixlora", published, tmp_path / "out", **options)[1]


def test_another_base(tmp_path):
    published = write_mixlora(tmp_path)
    shape = msgspec.structs.replace(TINY, hidden_size=64)
    with pytest.raises(AdapterError) as caught:
        import_router("mixlora", published.source, tmp_path / "out", shape, ImportOptions())
    assert caught.value.code == "wrong_base_model"


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutated_files_are_converted_or_refused(tmp_path_factory, data):
    layout = data.draw(st.sampled_from(sorted(WRITERS)))
    root = tmp_path_factory.mktemp("mutated")
    published = WRITERS[layout](root)
    tensors = dict(published.tensors)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensor = tensors.pop(name)
        match data.draw(st.sampled_from(["drop", "rename", "shape", "dtype"])):
            case "rename":
                old, new = data.draw(st.sampled_from([(".0.", ".1."), (".1.", ".99."), (".", "_")]))
                tensors[name.replace(old, new)] = tensor
            case "shape":
                tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 9), max_size=3)))
            case "dtype":
                tensors[name] = tensor.to(data.draw(st.sampled_from([torch.int8, torch.float64])))
    changes = {}
    if published.config and data.draw(st.booleans()):
        field = data.draw(st.sampled_from(sorted(published.config)))
        value = (
            st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
        )
        changes[field] = data.draw(value)
    published.rewrite(tensors, **changes)
    out = root / "out"
    try:
        config = convert(layout, published, out, **all_options(layout))
    except AdapterError:
        assert not out.exists()
        return
    load_converted(out, config)
