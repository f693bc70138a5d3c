"""Random adapters are what PEFT reads, of the ranks asked for, and the same for a seed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.peft_side import generate, load_peft_model
from benchmarks.random_adapters import MODULES, write_adapters
from benchmarks.work import Round
from tests.benchmarks.tiny import write_tiny_model

RANKS = (4, 8, 2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), seed=11)


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_adapters(model_dir, tmp_path_factory.mktemp("adapters"), RANKS, seed=3)


def test_peft_finds_every_tensor_and_every_module(
    model_dir: Path, adapters: dict[str, Path]
) -> None:
    model = load_peft_model(model_dir, adapters)
    for (name, directory), rank in zip(adapters.items(), RANKS, strict=True):
        stored = load_file(directory / "adapter_model.safetensors")
        assert len(stored) == 2 * 2 * len(MODULES)  # A and B, two layers
        loaded = {
            key.replace(f".{name}.weight", ".weight"): value
            for key, value in model.state_dict().items()
            if f".{name}." in key
        }
        assert loaded.keys() == stored.keys()
        for key, value in stored.items():
            assert torch.equal(loaded[key], value.to(torch.float32)), key
            assert rank in value.shape


def test_the_same_seed_writes_the_same_bytes(
    model_dir: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    again = write_adapters(model_dir, tmp_path / "again", RANKS, seed=3)
    other = write_adapters(model_dir, tmp_path / "other", RANKS, seed=4)
    for name, directory in adapters.items():
        content = (directory / "adapter_model.safetensors").read_bytes()
        assert (again[name] / "adapter_model.safetensors").read_bytes() == content
        assert (other[name] / "adapter_model.safetensors").read_bytes() != content


def test_a_mixed_batch_generates_what_each_adapter_does_alone(
    model_dir: Path, adapters: dict[str, Path]
) -> None:
    model = load_peft_model(model_dir, adapters)
    names = [*adapters, None]
    prompt = torch.randint(1, 257, (12,), generator=torch.Generator().manual_seed(9)).tolist()
    mixed = Round(prompts=[prompt] * len(names), adapters=names, num_output_tokens=10)
    elapsed_s, tokens = generate(model, mixed)
    assert elapsed_s > 0
    assert [len(row) for row in tokens] == [10] * len(names)
    assert len({tuple(row) for row in tokens}) > 1  # the adapters do change the answers
    for name, row in zip(names, tokens, strict=True):
        _, [alone] = generate(model, Round(prompts=[prompt], adapters=[name], num_output_tokens=10))
        assert alone == row, name
