"""The example adapters: their data generators, and what is stored for each of them."""

import json
import re
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open

ADAPTERS_DIR = Path(__file__).parents[2] / "examples" / "adapters"
ADAPTER_DIRS = sorted(path.parent for path in ADAPTERS_DIR.glob("*/adapter_config.json"))
MAX_TOTAL_BYTES = 25_000_000
# An absolute path of a Unix or Windows machine, or of a user.
MACHINE_PATH = re.compile(r"(^|[\s\"'(=])(/(root|home|tmp|work|mnt|Users|opt)/|~/|[A-Z]:\\\\)")


@pytest.fixture(scope="module")
def tasks() -> Any:
    """The scripts import one another by plain names, as a script's own directory allows."""
    sys.path.insert(0, str(ADAPTERS_DIR))
    names_before = set(sys.modules)
    try:
        import tasks as module

        assert isinstance(module, ModuleType)
        yield module
    finally:
        sys.path.remove(str(ADAPTERS_DIR))
        for name in set(sys.modules) - names_before:
            if str(ADAPTERS_DIR) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def test_every_adapter_has_a_task_and_the_other_way_round(tasks: Any) -> None:
    assert sorted(tasks.TASKS) == [path.name for path in ADAPTER_DIRS]
    assert len(ADAPTER_DIRS) >= 6


def test_the_seed_decides_the_examples(tasks: Any) -> None:
    for task in tasks.TASKS.values():
        split = tasks.make_split(task, seed=3, num_train=50, num_held_out=20)
        assert split == tasks.make_split(task, seed=3, num_train=50, num_held_out=20)
        assert split != tasks.make_split(task, seed=4, num_train=50, num_held_out=20)


def test_held_out_prompts_are_not_trained_on(tasks: Any) -> None:
    for task in tasks.TASKS.values():
        split = tasks.make_split(task, seed=0, num_train=2000, num_held_out=100)
        train = {example.prompt for example in split.train}
        held_out = {example.prompt for example in split.held_out}
        assert (len(train), len(held_out)) == (2000, 100), task.name
        assert not train & held_out


def test_prompts_and_answers_are_short_and_plain(tasks: Any) -> None:
    for task in tasks.TASKS.values():
        for example in tasks.make_split(task, seed=1, num_train=300, num_held_out=1).train:
            assert example.prompt.startswith(task.instruction + "\n")
            assert 0 < len(example.prompt) < 300
            assert 0 < len(example.answer) < 120
            assert example.answer == example.answer.strip()
            assert "\n" not in example.answer


def test_answers_are_right_where_another_reader_can_tell(tasks: Any) -> None:
    def answers(name: str) -> list[str]:
        split = tasks.make_split(tasks.TASKS[name], seed=2, num_train=300, num_held_out=1)
        return [example.answer for example in split.train]

    for answer in answers("json-extract"):
        assert set(json.loads(answer)) == {"name", "age", "city"}
    for answer in answers("durations"):
        assert re.fullmatch(r"P(?!$)(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+S)?)?", answer), answer
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE orders(id, customer, city, amount)")
        for answer in answers("text-to-sql"):
            database.execute(answer)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (342_007, "three hundred forty-two thousand seven"),
        (999_999, "nine hundred ninety-nine thousand nine hundred ninety-nine"),
    ],
)
def test_number_in_words(tasks: Any, number: int, words: str) -> None:
    assert tasks.number_in_words(number) == words


@pytest.mark.parametrize("adapter_dir", ADAPTER_DIRS, ids=lambda path: path.name)
def test_stored_adapter_is_small_plain_and_finite(adapter_dir: Path) -> None:
    assert {path.name for path in adapter_dir.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config_text = (adapter_dir / "adapter_config.json").read_text()
    assert json.loads(config_text)["base_model_name_or_path"] == "SmolLM2-135M-Instruct"
    card = (adapter_dir / "README.md").read_text()
    assert f"# {adapter_dir.name}\n" in card
    assert "held-out" in card
    assert not MACHINE_PATH.search(config_text)
    assert not MACHINE_PATH.search(card)
    with safe_open(adapter_dir / "adapter_model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118, safe_open is no mapping
            tensor = weights.get_tensor(name)
            assert tensor.dtype == torch.bfloat16, name
            assert tensor.isfinite().all(), name
            assert tensor.any(), name


def test_adapters_differ_in_shape() -> None:
    configs = [json.loads((path / "adapter_config.json").read_text()) for path in ADAPTER_DIRS]
    ranks = {config["r"] for config in configs}
    assert (min(ranks), max(ranks)) == (4, 32)
    module_sets = {frozenset(config["target_modules"]) for config in configs}
    assert len(module_sets) >= 4
    assert any(config["use_rslora"] for config in configs)
    assert any(config["rank_pattern"] and config["alpha_pattern"] for config in configs)


def test_all_adapters_together_stay_small() -> None:
    total_bytes = sum(p.stat().st_size for path in ADAPTER_DIRS for p in path.iterdir())
    assert total_bytes <= MAX_TOTAL_BYTES


def test_prompts_are_held_out_examples(tasks: Any) -> None:
    prompts = json.loads((ADAPTERS_DIR / "prompts.json").read_text())
    assert sorted(prompts) == [path.name for path in ADAPTER_DIRS]
    for name, cases in prompts.items():
        split = tasks.make_split(tasks.TASKS[name], seed=0, num_train=1, num_held_out=100)
        held_out = [{"prompt": e.prompt, "answer": e.answer} for e in split.held_out]
        assert cases == held_out[:3]
