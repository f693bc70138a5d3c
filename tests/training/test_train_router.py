"""A whole run on a tiny base: what changes, what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from motet.core.errors import AdapterError, ConfigError, ModelError
from motet.core.shape import MODULES, ModelShape, Module
from motet.training import fit as fit_module
from motet.training.experts import load_experts
from motet.training.fit import StepLosses
from motet.training.methods import Method
from motet.training.options import TrainingOptions
from motet.training.train_router import train_router
from tests.adapters.make import AdapterSpec, write_lora
from tests.training.tiny import SHAPE, write_base, write_examples, write_experts

STEPS = 12


class Watcher:
    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: list[StepLosses] = []
        self.parts: list[str] = []
        self._stop_after = stop_after

    def on_step(self, num_done: int, losses: StepLosses) -> None:
        self.losses.append(losses)
        if num_done == self._stop_after:
            raise KeyboardInterrupt

    def on_part(self, name: str) -> None:
        self.parts.append(name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_base(directory / "base")
    write_experts(directory)
    write_examples(directory / "train.jsonl")
    write_examples(directory / "held_out.jsonl", 2, 1)
    return directory


def options(world: Path, out: Path, method: Method = Method.METEORA) -> TrainingOptions:
    is_trained = method != Method.ARROW
    return TrainingOptions(
        method=method,
        experts=(world / "upper", world / "lower"),
        data=world / "train.jsonl" if is_trained else None,
        held_out=None,
        out=out,
        base=world / "base",
        base_name="tiny",
        top_k=2,
        steps=STEPS,
        tokens_per_step=200,
    )


def gates_in(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "router.safetensors")


@pytest.mark.parametrize("method", [Method.METEORA, Method.LORA_MIXER])
def test_the_losses_fall(world: Path, tmp_path: Path, method: Method) -> None:
    watcher = Watcher()
    asked = replace(options(world, tmp_path, method), steps=40)
    train_router(asked, watcher)
    assert len(watcher.losses) == 40
    free = watcher.losses[asked.recipe.num_told_steps :]
    assert sum(each.answer for each in free[-5:]) < sum(each.answer for each in free[:5])
    if method == Method.METEORA:
        assert sum(each.label for each in watcher.losses[-5:]) / 5 < 0.98 * watcher.losses[0].label


def test_a_seed_reproduces_and_another_does_not(world: Path, tmp_path: Path) -> None:
    asked = options(world, tmp_path / "one")
    for run in (
        asked,
        replace(asked, out=tmp_path / "same"),
        replace(asked, out=tmp_path / "other", seed=1),
    ):
        train_router(run, Watcher())
    one, same, other = (gates_in(tmp_path / name) for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_ends_as_one_that_was_not_cut(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "STEPS_BETWEEN_CHECKPOINTS", 5)
    whole, cut = options(world, tmp_path / "whole"), options(world, tmp_path / "cut")
    train_router(whole, Watcher())
    with pytest.raises(KeyboardInterrupt):
        train_router(cut, Watcher(stop_after=8))
    watcher = Watcher()
    train_router(replace(cut, resumes=True), watcher)
    assert len(watcher.losses) == STEPS - 5
    expected, found = gates_in(whole.out), gates_in(cut.out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_of_another_run_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "STEPS_BETWEEN_CHECKPOINTS", 1)
    asked = options(world, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_router(asked, Watcher(stop_after=1))
    with pytest.raises(ConfigError, match="run with seed = 0, this one has 1"):
        train_router(replace(asked, seed=1, resumes=True), Watcher())
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="cannot be gone on from"):
        train_router(replace(asked, resumes=True), Watcher())
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no checkpoint\.safetensors"):
        train_router(replace(asked, resumes=True), Watcher())


@pytest.mark.parametrize("method", list(Method))
def test_the_result_is_a_routed_set_with_a_card(
    world: Path, tmp_path: Path, method: Method
) -> None:
    asked = replace(options(world, tmp_path / "out", method), held_out=world / "held_out.jsonl")
    measured = train_router(asked, Watcher())
    assert measured is not None
    config = json.loads((asked.out / "router_config.json").read_text())
    experts = load_experts(asked.experts, SHAPE)
    assert config["method"] == method.value
    assert config["base_model"] == {"name": "tiny", "hidden_size": 32, "num_layers": 2}
    assert config["experts"] == [
        {"name": name, "digest": digest}
        for name, digest in zip(("upper", "lower"), experts.digests, strict=True)
    ]
    assert (config["top_k"], config["temperature"]) == (2, 1.0)
    assert config["evaluation"]["agreement"] == measured.agreement
    assert str(tmp_path) not in json.dumps(config)
    card = (asked.out / "README.md").read_text()
    assert experts.digests[1] in card
    assert f"{measured.composite:.1%}" in card
    if method == Method.ARROW:
        assert not (asked.out / "router.safetensors").exists()
        return
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    gates = gates_in(asked.out)
    modules = MODULES if method == Method.METEORA else MODULES[:4]
    assert len(gates) == SHAPE.num_layers * len(modules)
    assert all(gate.shape == (2, 48 if "down" in name else 32) for name, gate in gates.items())
    assert all(gate.dtype == torch.bfloat16 and gate.any() for gate in gates.values())
    if method == Method.LORA_MIXER:
        assert all(
            name.endswith(tuple(f"self_attn.{a}.gate.weight" for a in attention)) for name in gates
        )


@pytest.mark.parametrize("name", ["data", "held_out"])
def test_bad_data_is_refused_before_a_step(world: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"segments": [{"task": "other", "prompt": "x", "answer": "y"}]}\n')
    watcher = Watcher()
    asked = dataclasses.replace(options(world, tmp_path / "out"), **{name: path})
    with pytest.raises(ConfigError, match=r"bad\.jsonl, line 1: No expert is named 'other'"):
        train_router(asked, watcher)
    assert watcher.losses == []
    assert not (tmp_path / "out").exists()


def test_an_expert_of_another_base_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    wide = ModelShape(2, 64, 48, 2, 1, 32, 259)
    stranger = write_lora(tmp_path / "stranger", wide)
    asked = replace(options(world, tmp_path / "out"), experts=(world / "upper", stranger))
    with pytest.raises(AdapterError, match="Expert stranger:") as error:
        train_router(asked, Watcher())
    assert error.value.code == "wrong_base_model"


def test_experts_that_the_method_does_not_route_are_refused(world: Path, tmp_path: Path) -> None:
    spec = AdapterSpec(modules=(Module.UP,))
    mlp_alone = tuple(write_lora(tmp_path / name, SHAPE, spec) for name in ("upper", "lower"))
    asked = replace(options(world, tmp_path / "out", Method.LORA_MIXER), experts=mlp_alone)
    with pytest.raises(ConfigError, match="No expert touches a projection that lora_mixer routes"):
        train_router(asked, Watcher())


def test_a_base_that_is_none_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        train_router(replace(options(world, tmp_path / "out"), base=tmp_path), Watcher())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"top_k": 3}, "--top-k is 3; expected 1 to 2"),
        ({"temperature": 0.0}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"data": None}, "needs --data"),
        ({"method": Method.ARROW}, "is not trained"),
    ],
)
def test_options_that_contradict_are_refused(
    world: Path, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        dataclasses.replace(options(world, tmp_path), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("upper",), ("upper", "upper")])
def test_fewer_than_two_experts_are_refused(world: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--experts"):
        load_experts([world / name for name in names], SHAPE)
