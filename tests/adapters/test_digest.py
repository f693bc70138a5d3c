"""What changes an adapter's identity, and what does not."""

import hashlib
import json
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from motet.adapters.digest import StoredPair, content_digest
from motet.adapters.peft_lora import load_adapter
from motet.core.shape import Module
from tests.adapters.make import TINY, AdapterSpec, key, lora_config, write_files, write_lora

WEIGHTS = "adapter_model.safetensors"
SPEC = AdapterSpec(seed=11, modules=(Module.Q, Module.DOWN))


@pytest.fixture
def adapter(tmp_path):
    return write_lora(tmp_path / "adapter", spec=SPEC)


def digest(directory) -> str:
    return load_adapter(directory, TINY).digest


def test_form_and_repeatability(adapter, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{64}", digest(adapter))
    assert digest(adapter) == digest(write_lora(tmp_path / "again", spec=SPEC))


def test_documented_form():
    a, b = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[0.5], [4.0]])
    pair = StoredPair(3, Module.UP, a.bfloat16(), b, 0.1)
    sha = hashlib.sha256(b"motet adapter 1\n")
    sha.update(b"3 UP 1 0x1.999999999999ap-4 bfloat16 1 3 float32 2 1\n")
    sha.update(bytes.fromhex("803f004040c0") + struct.pack("<2f", 0.5, 4.0))
    assert content_digest([pair]) == sha.hexdigest()


def test_what_does_not_enter(adapter, tmp_path):
    expected = digest(adapter)
    tensors = load_file(adapter / WEIGHTS)
    reordered = dict(reversed(tensors.items()))
    config = {**lora_config(SPEC), "lora_dropout": 0.5, "base_model_name_or_path": "other"}
    other = write_files(tmp_path / "renamed", dict(reversed(config.items())), reordered)
    save_file(reordered, other / WEIGHTS, metadata={"note": "x"})
    (other / "README.md").write_text("# A card")
    assert digest(other) == expected


def test_the_same_scaling_by_other_fields(adapter, tmp_path):
    config = {**lora_config(SPEC), "lora_alpha": 4, "use_rslora": True}  # 4 / sqrt(4) == 8 / 4
    assert digest(write_files(tmp_path / "b", config, load_file(adapter / WEIGHTS))) == digest(
        adapter
    )


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_every_element_enters(adapter, factor, position):
    before = digest(adapter)
    tensors = load_file(adapter / WEIGHTS)
    flat = tensors[key(2, Module.DOWN, factor)].view(-1)
    flat[position] = torch.nextafter(flat[position], torch.tensor(9.0))
    save_file(tensors, adapter / WEIGHTS)
    assert digest(adapter) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 8.000001},
        {"use_rslora": True},
        {"alpha_pattern": {"layers.1.self_attn.q_proj": 9}},
    ],
)
def test_scaling_enters(adapter, changes):
    before = digest(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({**lora_config(SPEC), **changes}))
    assert digest(adapter) != before


def test_place_and_dtype_enter():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 2, generator=generator).bfloat16() for _ in range(2))
    digests = [
        content_digest([StoredPair(*place, *factors, 1.0)])
        for place in ((0, Module.Q), (1, Module.Q), (0, Module.K))
        for factors in ((a, b), (b, a), (a.float(), b), (a, b.float()))
    ]
    digests.append(content_digest([StoredPair(0, Module.Q, a.view(torch.float16), b, 1.0)]))
    digests.append(content_digest([]))
    assert len(set(digests)) == len(digests)


def test_order_of_pairs_does_not_enter():
    generator = torch.Generator().manual_seed(1)
    pairs = [
        StoredPair(i, m, torch.randn(3, 4, generator=generator), torch.randn(4, 3), 0.5)
        for i in range(2)
        for m in (Module.Q, Module.UP)
    ]
    assert content_digest(pairs) == content_digest(pairs[::-1])


def test_layout_in_memory_does_not_enter():
    whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    for a in (whole[:3], whole.t().contiguous().t()[:3], whole[::2]):
        pair = StoredPair(0, Module.Q, a, whole[:, :3], 1.0)
        copied = StoredPair(0, Module.Q, a.clone().contiguous(), whole[:, :3].contiguous(), 1.0)
        assert content_digest([pair]) == content_digest([copied])
