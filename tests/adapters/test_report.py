"""The plain-data summary of an adapter directory."""

import json

import msgspec
import torch

from motet.adapters.peft_lora import load_adapter
from motet.adapters.report import describe
from motet.core.shape import Module
from tests.adapters.make import TINY, AdapterSpec, random_tensors, write_lora


def test_accepted(tmp_path):
    spec = AdapterSpec(
        modules=(Module.K, Module.UP),
        ranks={(1, Module.UP): 16},
        dtype=torch.bfloat16,
        config={"alpha_pattern": {"k_proj": 2}},
    )
    directory = write_lora(tmp_path / "a", spec=spec)
    report = describe(directory, TINY)
    assert report.refusal is None
    summary = report.summary
    assert summary.digest == load_adapter(directory, TINY).digest
    assert summary.num_parameters == sum(t.numel() for t in random_tensors(TINY, spec).values())
    assert (summary.max_rank, summary.use_rslora) == (16, False)
    assert summary.stored_dtypes == ["bfloat16"]
    assert summary.base_model_name == "tiny-llama"
    k, up = summary.modules
    assert (k.module, k.layers, k.ranks, k.scalings) == ("k", "0-2", [4], [0.5])
    assert (up.module, up.layers, up.ranks, up.scalings) == ("up", "0-2", [4, 16], [0.5, 2.0])
    assert json.loads(msgspec.json.encode(report))["summary"]["max_rank"] == 16


def test_gaps_in_the_layers(tmp_path):
    for layers, shown in (((0, 2), "0,2"), ((1, 2), "1-2"), ((1,), "1")):
        spec = AdapterSpec(modules=(Module.O,), layers=layers, use_rslora=True)
        summary = describe(write_lora(tmp_path / shown, spec=spec), TINY).summary
        assert summary.modules[0].layers == shown
        assert summary.use_rslora


def test_refused(tmp_path):
    spec = AdapterSpec(config={"use_dora": True})
    report = describe(write_lora(tmp_path / "a", spec=spec), TINY)
    assert report.summary is None
    assert report.refusal.code == "unsupported_adapter"
    assert "use_dora" in report.refusal.message
    assert describe(tmp_path / "none", TINY).refusal.code == "adapter_not_found"
    outside = describe(tmp_path / "a", TINY, root=tmp_path / "a" / "b")
    assert outside.refusal.code == "path_not_allowed"
