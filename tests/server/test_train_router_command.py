"""`motet train-router`: its options reach the run, and refusals are sentences."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.server.cli import app
from tests.training.tiny import write_base, write_examples, write_experts


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train-router", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_base(directory / "base")
    write_experts(directory)
    write_examples(directory / "train.jsonl")
    write_examples(directory / "held_out.jsonl", 2, 1)
    return directory


def common(world: Path, out: Path) -> list[str | Path]:
    experts = f"{world / 'upper'},{world / 'lower'}"
    return ["--experts", experts, "--base", world / "base", "--out", out]


def test_a_router_is_trained_and_its_figures_shown(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    files = ["--data", world / "train.jsonl", "--held-out", world / "held_out.jsonl"]
    status, output = run(
        "--method", "meteora", *common(world, out), *files, "--steps", "3", "--top-k", "1"
    )
    assert status == 0, output
    assert "composites, best single one" in output
    assert {path.name for path in out.iterdir()} >= {
        "README.md",
        "router.safetensors",
        "router_config.json",
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--method", "lora_mixer"), "needs --data"),
        (("--method", "arrow", "--top-k", "5"), "--top-k is 5"),
        (("--method", "xlora"), "xlora"),
    ],
)
def test_a_refusal_is_a_sentence(
    world: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    status, output = run(*arguments, *common(world, tmp_path / "out"))
    assert status != 0
    assert reason in output
    assert "Traceback" not in output
