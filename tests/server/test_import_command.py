"""`motet import-router`: what it makes, what it says, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.adapters.importing.layouts import LAYOUTS
from motet.adapters.router_config import read_router_config
from motet.server.cli import app
from motet.server.import_command import Layout
from tests.adapters.importing.published import TASKS, write_meteora, write_mixlora
from tests.adapters.make import write_base_config


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return write_base_config(tmp_path / "base")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["import-router", *map(str, arguments)])
    return result.exit_code, result.output


def test_every_layout_is_offered() -> None:
    assert {layout.value for layout in Layout} == set(LAYOUTS)


def test_meteora(base_dir: Path, tmp_path: Path) -> None:
    published = write_meteora(tmp_path)
    out = tmp_path / "out"
    options = ["--adapters", published.adapters, "--order", ", ".join(TASKS), "--model", base_dir]
    more = ["--top-k", 1, "--temperature", 2.5]
    status, output = run("meteora", published.source, "--out", out, *options, *more)
    assert status == 0, output
    assert "3 experts, 0 shared adapters" in output
    config = read_router_config(out)
    assert [expert.name for expert in config.experts] == list(TASKS)
    assert (config.rule.top_k, config.rule.temperature) == (1, 2.5)


def test_a_refusal(base_dir: Path, tmp_path: Path) -> None:
    published = write_mixlora(tmp_path)
    published.rewrite(peft_type="XLORA")
    out = tmp_path / "out"
    status, output = run("mixlora", published.source, "--out", out, "--model", base_dir)
    assert status == 1
    assert "first forward pass" in output
    assert not out.exists()


def test_a_model_that_is_none(tmp_path: Path) -> None:
    published = write_mixlora(tmp_path)
    (tmp_path / "empty").mkdir()
    options = ["--out", tmp_path / "out", "--model", tmp_path / "empty"]
    status, output = run("mixlora", published.source, *options)
    assert status == 1
    assert "config.json" in output
