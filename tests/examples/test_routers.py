"""The example routers: their data, and what is stored for each of them."""

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from motet.core.shape import MODULES, ModelShape
from motet.training.examples import read_examples
from motet.training.experts import load_experts

EXAMPLES_DIR = Path(__file__).parents[2] / "examples"
ROUTERS_DIR = EXAMPLES_DIR / "routers"
ADAPTER_DIRS = sorted(p.parent for p in EXAMPLES_DIR.glob("adapters/*/adapter_config.json"))
NAMES = [path.name for path in ADAPTER_DIRS]
METHODS = ("arrow", "lora_mixer", "meteora")
MAX_WEIGHTS_BYTES = 3_000_000
SMOLLM2_135M = ModelShape(
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
)


@pytest.fixture(scope="module")
def data() -> Any:
    """The script imports others by plain names, as a script's own directory allows."""
    path_before, names_before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(ROUTERS_DIR))
    try:
        import data as module

        yield module
    finally:
        sys.path[:] = path_before
        for name in set(sys.modules) - names_before:
            if str(EXAMPLES_DIR) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def config_of(method: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ROUTERS_DIR / method / "router_config.json").read_text())
    return config


def test_the_held_out_examples_are_those_of_the_script(data: Any, tmp_path: Path) -> None:
    data.write(tmp_path / "x.jsonl", data.make_examples(Random("routers/0"), 20, 40, set()))
    assert (tmp_path / "x.jsonl").read_bytes() == (ROUTERS_DIR / "held_out.jsonl").read_bytes()


def test_the_held_out_examples_can_be_read() -> None:
    examples = read_examples(ROUTERS_DIR / "held_out.jsonl", NAMES)
    singles = Counter(each.segments[0].task for each in examples if not each.is_composite)
    assert singles == dict.fromkeys(NAMES, 20)
    composites = [each for each in examples if each.is_composite]
    assert len(composites) == 40
    assert all(len({segment.task for segment in each.segments}) == 3 for each in composites)


def test_no_question_is_both_learnt_and_held_out(data: Any) -> None:
    rng, seen = Random("routers/1"), set[str]()
    first = data.make_examples(rng, 20, 20, seen)
    second = data.make_examples(rng, 100, 100, seen)
    asked = [{segment["prompt"] for each in part for segment in each} for part in (first, second)]
    assert not asked[0] & asked[1]
    assert len(seen) == len(asked[0]) + len(asked[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_router_names_the_example_adapters_by_digest(method: str) -> None:
    config = config_of(method)
    experts = load_experts(ADAPTER_DIRS, SMOLLM2_135M)
    assert config["method"] == method
    assert config["experts"] == [
        {"name": name, "digest": digest}
        for name, digest in zip(experts.names, experts.digests, strict=True)
    ]
    assert config["base_model"] == {
        "name": "SmolLM2-135M-Instruct",
        "hidden_size": 576,
        "num_layers": 30,
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_router_is_small_and_finite(method: str) -> None:
    names = {path.name for path in (ROUTERS_DIR / method).iterdir()}
    weights = {"router.safetensors"} if method != "arrow" else set()
    assert names == {"README.md", "router_config.json"} | weights
    if not weights:
        return
    path = ROUTERS_DIR / method / "router.safetensors"
    assert path.stat().st_size <= MAX_WEIGHTS_BYTES
    gates = load_file(path)
    num_modules = len(MODULES) if method == "meteora" else 4
    assert len(gates) == 30 * num_modules
    for name, gate in gates.items():
        assert gate.dtype == torch.bfloat16, name
        assert gate.shape[0] == len(NAMES), name
        assert gate.isfinite().all(), name


def test_what_is_promised_of_meteora_was_measured() -> None:
    measured = config_of("meteora")["evaluation"]
    assert measured["routed_over_all"] >= 0.95 * measured["named_over_all"]
    assert measured["composite"] >= 2 * max(measured["composite_named"].values())


@pytest.mark.parametrize("method", METHODS)
def test_the_card_and_the_table_have_the_measured_figures(method: str) -> None:
    measured = config_of(method)["evaluation"]
    card = (ROUTERS_DIR / method / "README.md").read_text()
    table = (ROUTERS_DIR / "README.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith(f"| [{method}]")]
    for share in (measured["routed_over_all"], measured["composite"]):
        assert f"{share:.1%}" in card
        assert f"{share:.1%}" in row
