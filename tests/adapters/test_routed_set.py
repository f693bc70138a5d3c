"""Loading a routed set: gates and experts as stored, and everything that does not fit refused."""

import os
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from motet.adapters.peft_lora import load_adapter
from motet.adapters.routed_set import RoutedSet, load_routed_set
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError
from motet.core.shape import MODULES, Module
from tests.adapters.make import PATHS, TINY, AdapterSpec, write_lora
from tests.adapters.make_routed import WITHOUT_TENSORS, SetOnDisk, write_set

KEY = "layers.1.self_attn.o_proj.gate.weight"
ATTENTION = (Module.Q, Module.K, Module.V, Module.O)


def load(written: SetOnDisk) -> RoutedSet:
    return load_routed_set(*written.load_args())


def refused(written: SetOnDisk) -> tuple[str, str]:
    with pytest.raises(AdapterError) as caught:
        load(written)
    return caught.value.code, caught.value.message


@pytest.fixture
def meteora(tmp_path) -> SetOnDisk:
    return write_set(tmp_path / "set")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads(tmp_path, method):
    written = write_set(tmp_path / "set", method)
    paces = []
    routed = load_routed_set(*written.load_args(), pace=lambda: paces.append(1))
    assert routed.config.method == method
    expected = [load_adapter(path, TINY).digest for path in written.members]
    assert [expert.digest for expert in routed.experts] == expected
    assert len(paces) > len(written.members)
    for (layer, module), rows in routed.gates.items():
        assert rows.dtype == torch.float32
        assert rows.shape[1] == TINY.in_features(module)
        place = "mlp" if method == "mixlora" else PATHS[module]
        if method in WITHOUT_TENSORS:
            continue
        name = f"layers.{layer}.{place}.gate"
        weight = written.tensors[f"{name}.weight"]
        assert torch.equal(rows[: len(weight)], weight)
        if method == "smora":
            bias = written.tensors[f"{name}.bias"]
            assert torch.equal(rows[-1, : len(bias)], bias)
            assert not rows[-1, len(bias) :].any()
            assert len(rows) == len(weight) + 1
        else:
            assert len(rows) == len(weight)
    places = {"mixlora": (Module.GATE,), "mora": ()}.get(method, MODULES)
    assert list(routed.gates) == [(i, m) for i in range(TINY.num_layers) for m in places]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_in_half_precision(tmp_path, dtype):
    written = write_set(tmp_path / "set", "smora", dtype=dtype)
    rows = load(written).gates[1, Module.O]
    assert torch.equal(rows[:-1], written.tensors[KEY].float())


def test_shared_adapters(tmp_path):
    spec = AdapterSpec(rank=2, modules=ATTENTION, seed=9)
    written = write_set(tmp_path / "set", "mixlora", shared=[spec])
    routed = load(written)
    assert [each.digest for each in routed.shared] == [
        load_adapter(written.members[-1], TINY).digest
    ]
    assert len(routed.experts) == 3


def test_gates_may_be_missing_and_fewer(meteora):
    tensors = {KEY: meteora.tensors[KEY][:2].clone()}
    meteora.rewrite_tensors(tensors)
    gates = load(meteora).gates
    assert list(gates) == [(1, Module.O)]
    assert torch.equal(gates[1, Module.O], tensors[KEY])


def full_prototype(member, key) -> torch.Tensor:
    delta = load_adapter(member, TINY).deltas[key]
    return torch.linalg.svd(delta.b.double() @ delta.a.double())[2][0]


def test_arrow_prototypes(tmp_path):
    written = write_set(tmp_path / "set", "arrow")
    gates = load(written).gates
    for key, rows in gates.items():
        for row, member in zip(rows.double(), written.members, strict=True):
            expected = full_prototype(member, key)
            assert abs(float(row @ expected)) == pytest.approx(1.0, abs=1e-5)
            assert float(row[row.abs().argmax()]) > 0


def test_arrow_rows_of_experts_that_do_nothing_are_zero(tmp_path):
    written = write_set(tmp_path / "set", "arrow")
    member = written.members[1]
    shutil.rmtree(member)
    write_lora(member, TINY, AdapterSpec(modules=(Module.Q,), layers=(0, 2), seed=5))
    silent = written.members[2]
    adapter = load_adapter(silent, TINY)
    for path in silent.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({k: t * (".lora_A." in k) for k, t in tensors.items()}, path)
    assert load_adapter(silent, TINY).digest != adapter.digest
    experts = [
        {**ref, "digest": load_adapter(path, TINY).digest}
        for ref, path in zip(written.config["experts"], written.members, strict=True)
    ]
    written.rewrite(experts=experts)
    for (layer, module), rows in load(written).gates.items():
        touched = module == Module.Q and layer != 1
        assert float(rows[0].norm()) == pytest.approx(1.0, abs=1e-6)
        assert float(rows[1].norm()) == pytest.approx(1.0 if touched else 0.0, abs=1e-6)
        assert not rows[2].any()


# The digest: what decides outputs, and nothing else.


def test_digest_ignores_what_decides_nothing(meteora):
    digest = load(meteora).digest
    assert len(digest) == 64
    renamed = [{**ref, "name": f"x{i}"} for i, ref in enumerate(meteora.config["experts"])]
    meteora.rewrite(experts=renamed, provenance={"steps": 5}, evaluation={"accuracy": 0.9})
    assert load(meteora).digest == digest


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"temperature": 2.5}, {"method": "lora_mixer"}])
def test_digest_holds_the_rule(meteora, changes):
    digest = load(meteora).digest
    meteora.rewrite(**changes)
    same_rule = "method" in changes  # of the same top_k, temperature and gates
    assert (load(meteora).digest == digest) == same_rule


def test_digest_holds_gates_experts_and_roles(meteora):
    digests = {load(meteora).digest}
    changed = {**meteora.tensors, KEY: meteora.tensors[KEY] * 2}
    meteora.rewrite_tensors(changed)
    digests.add(load(meteora).digest)
    meteora.rewrite_tensors({k: t.half() for k, t in meteora.tensors.items()})
    digests.add(load(meteora).digest)
    meteora.rewrite_tensors({k: t[:2].clone() for k, t in meteora.tensors.items()})
    digests.add(load(meteora).digest)
    first, second, third = meteora.config["experts"]
    meteora.rewrite(experts=[first, second], shared=[third])
    digests.add(load(meteora).digest)
    meteora.rewrite(experts=[second, first], shared=[third])
    a, b, c = meteora.members
    digests.add(load_routed_set(meteora.directory, [b, a, c], TINY).digest)
    assert len(digests) == 6


# Refusals.


def test_another_base(meteora):
    base = {"name": "other", "hidden_size": 64, "num_layers": 3}
    meteora.rewrite(base_model=base)
    assert refused(meteora)[0] == "wrong_base_model"


def test_an_expert_of_another_base(meteora):
    write_lora(meteora.members[1], spec=AdapterSpec(layers=(7,)))
    code, message = refused(meteora)
    assert code == "wrong_base_model"
    assert "'e1'" in message


def test_an_expert_of_another_content(meteora):
    write_lora(meteora.members[2], TINY, AdapterSpec(seed=77))
    message = refused(meteora)[1]
    assert "'e2' has the digest" in message
    assert meteora.config["experts"][2]["digest"] in message


def test_a_missing_expert(meteora):
    shutil.rmtree(meteora.members[0])
    code, message = refused(meteora)
    assert code == "adapter_not_found"
    assert "'e0'" in message
    with pytest.raises(AdapterError, match="names 3 experts"):
        load_routed_set(meteora.directory, meteora.members[:2], TINY)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(4, 32), "are 4, but there are 3 experts"),
        (
            torch.zeros(3, 31),
            f"The tensor '{KEY}' has shape [3, 31]; expected [number of gates, 32]",
        ),
        (torch.zeros(0, 32), "expected [number of gates, 32]"),
        (torch.zeros(32), "expected [number of gates, 32]"),
        (torch.full((3, 32), torch.nan), "NaN or infinity"),
        (torch.full((3, 32), torch.inf).half(), "NaN or infinity"),
        (torch.zeros(3, 32, dtype=torch.float64), "dtype 'F64'"),
        (torch.zeros(3, 32, dtype=torch.int32), "dtype 'I32'"),
    ],
)
def test_gates_that_do_not_fit(meteora, tensor, words):
    meteora.rewrite_tensors({**meteora.tensors, KEY: tensor})
    assert words in refused(meteora)[1]


@pytest.mark.parametrize(
    "name",
    [
        "layers.3.self_attn.q_proj.gate.weight",
        "layers.01.self_attn.q_proj.gate.weight",
        "layers.0.self_attn.q_proj.gate",
        "layers.0.self_attn.q_proj.gate.bias",
        "layers.0.mlp.gate.weight",
        "layers.0.self_attn.qkv_proj.gate.weight",
        "layers.0.self_attn.q_proj.prototype",
        "model.classifier.0.weight",
    ],
)
def test_unknown_tensors(meteora, name):
    meteora.rewrite_tensors({**meteora.tensors, name: torch.zeros(3, 32)})
    assert name.removesuffix(".bias").removesuffix(".weight") in refused(meteora)[1]


def test_no_gates(meteora):
    meteora.rewrite_tensors({})
    assert "holds no gates" in refused(meteora)[1]
    (meteora.directory / "router.safetensors").unlink()
    assert "needs router.safetensors" in refused(meteora)[1]
    (meteora.directory / "router_config.json").unlink()
    assert "no router_config.json" in refused(meteora)[1]


@pytest.mark.parametrize("method", WITHOUT_TENSORS)
def test_gates_where_there_are_none(tmp_path, method):
    written = write_set(tmp_path / "set", method)
    written.rewrite_tensors({KEY: torch.zeros(3, 32)})
    assert "takes no router.safetensors" in refused(written)[1]


@pytest.mark.parametrize("method", ["smora", "mora"])
def test_more_choices_than_ranks(tmp_path, method):
    written = write_set(tmp_path / "set", method)
    written.rewrite(top_k=4)
    assert "largest rank is 3" in refused(written)[1]


def test_gates_for_ranks(tmp_path):
    written = write_set(tmp_path / "set", "smora")
    bias = KEY.replace("weight", "bias")
    for change, words in (
        ({KEY: torch.zeros(2, 32), bias: torch.zeros(2)}, "are 2, but the expert has rank 3"),
        ({KEY: torch.zeros(3, 32), bias: torch.zeros(2)}, "expected [3]"),
        ({KEY: torch.zeros(3, 32), bias: torch.full((3,), torch.nan)}, "NaN or infinity"),
    ):
        written.rewrite_tensors({**written.tensors, **change})
        assert words in refused(written)[1]
    for missing in ([bias], [KEY]):
        written.rewrite_tensors({k: t for k, t in written.tensors.items() if k not in missing})
        assert "not a weight and a bias" in refused(written)[1]
    written.rewrite_tensors({k: t for k, t in written.tensors.items() if k not in (KEY, bias)})
    assert "are 0, but the expert has rank 3" in refused(written)[1]


def test_mixlora_routes_the_mlp_alone(tmp_path):
    spec = AdapterSpec(modules=(Module.Q, Module.UP), seed=9)
    written = write_set(tmp_path / "set", "mixlora", shared=[spec])
    assert "shared adapter touches the MLP" in refused(written)[1]
    first, second, third = written.config["experts"]
    (shared,) = written.config["shared"]
    written.rewrite(experts=[first, second, shared], shared=[third])
    a, b, c, d = written.members
    with pytest.raises(AdapterError, match="touches attention projections"):
        load_routed_set(written.directory, [a, b, d, c], TINY)


# Hostile files.


@pytest.mark.parametrize("name", ["router_config.json", "router.safetensors"])
def test_links_out_of_the_directory(meteora, tmp_path, name):
    (meteora.directory / name).rename(tmp_path / name)
    (meteora.directory / name).symlink_to(tmp_path / name)
    assert refused(meteora)[0] == "path_not_allowed"
    load_routed_set(*meteora.load_args(), root=tmp_path)


def test_a_link_in_a_resolved_path(meteora, tmp_path):
    (tmp_path / "link").symlink_to(meteora.directory)
    with pytest.raises(AdapterError, match="changed while"):
        load_routed_set(tmp_path / "link", meteora.members, TINY, is_resolved=True)
    load_routed_set(meteora.directory, meteora.members, TINY, is_resolved=True)


def test_hostile_tensors(meteora):
    path = meteora.directory / "router.safetensors"
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        struct.pack("<Q", 1 << 62) + whole[8:],
        struct.pack("<Q", 17 << 20) + b" " * (17 << 20),
        b"\x80\x04garbage of a pickle",
    ):
        path.write_bytes(content)
        assert refused(meteora)[0] == "corrupt_adapter"
    path.write_bytes(whole)
    os.truncate(path, 9 << 30)
    assert "at most 8589934592" in refused(meteora)[1]
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(meteora)[1]


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutated_bytes_are_read_or_refused(meteora, data):
    path = meteora.directory / "router.safetensors"
    meteora.rewrite_tensors(meteora.tensors)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header) | st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.just(len(content)) | st.integers(0, header))]))
    try:
        routed = load(meteora)
    except AdapterError:
        return
    assert all(rows.isfinite().all() for rows in routed.gates.values())
