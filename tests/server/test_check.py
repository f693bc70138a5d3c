"""`motet check`: what it says of an adapter, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.core.shape import Module
from motet.memory.geometry import PageGeometry, lay_out_adapter
from motet.server.cli import app
from tests.adapters.make import TINY, AdapterSpec, write_base_config, write_lora
from tests.adapters.make_routed import BY_RANK, METHOD_FIELDS, write_set


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return write_base_config(tmp_path / "base")


def check(directory: Path, base_dir: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", str(directory), "--model", str(base_dir), *more])
    return result.exit_code, result.output


def test_an_accepted_adapter_is_described(base_dir: Path, tmp_path: Path) -> None:
    """Its pages are counted from its true ranks, which differ between layers here."""
    spec = AdapterSpec(modules=(Module.Q, Module.DOWN), rank=4, ranks={(0, Module.Q): 7})
    directory = write_lora(tmp_path / "adapter", TINY, spec)
    ranks = {(layer, module): 4 for layer in range(TINY.num_layers) for module in spec.modules}
    layout = lay_out_adapter(PageGeometry(TINY, 64), ranks | {(0, Module.Q): 7})
    status, output = check(directory, base_dir, "--page-size", "64")
    assert status == 0, output
    assert "will load" in output
    assert f"{layout.num_pages} pages of 64 tokens" in output
    assert "tiny-llama" in output
    rows = [line.split() for line in output.splitlines() if " q " in line or " down " in line]
    assert [row[1] for row in rows] == ["q", "down"]
    assert "4, 7" in output


def test_a_refused_adapter_is_explained(base_dir: Path, tmp_path: Path) -> None:
    directory = write_lora(tmp_path / "adapter", TINY, AdapterSpec())
    (directory / "adapter_model.safetensors").write_bytes(b"garbage")
    status, output = check(directory, base_dir)
    assert status == 1
    assert "will not load" in output
    assert "Traceback" not in output


def test_a_model_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    directory = write_lora(tmp_path / "adapter", TINY, AdapterSpec())
    (tmp_path / "empty").mkdir()
    status, output = check(directory, tmp_path / "empty")
    assert status == 1
    assert "config.json" in output


@pytest.mark.parametrize("method", METHOD_FIELDS)
def test_a_routed_set_is_described_with_its_experts(
    base_dir: Path, tmp_path: Path, method: str
) -> None:
    written = write_set(tmp_path / "set", method)
    status, output = check(written.directory, base_dir)
    assert status == 0, output
    assert "will load" in output
    among = "the expert's ranks" if method in BY_RANK else "3 experts"
    assert f"{method}: the top {METHOD_FIELDS[method]['top_k']} of {among}" in output
    rows = [line for line in output.splitlines() if "in the set" in line]
    assert len(rows) == len(written.members)


def test_experts_that_a_set_only_names_are_looked_for(base_dir: Path, tmp_path: Path) -> None:
    """Beside the set, or where an option says."""
    written = write_set(tmp_path / "sets" / "mix", "arrow")
    experts = written.config["experts"]
    assert isinstance(experts, list)
    written.rewrite(experts=[{"name": e["name"], "digest": e["digest"]} for e in experts])
    inside = written.directory / "experts"
    status, output = check(written.directory, base_dir)
    assert status == 1
    assert "'e0'" in output
    status, output = check(written.directory, base_dir, "--adapter-dir", str(inside))
    assert status == 0, output
    for folder in list(inside.iterdir()):
        folder.rename(tmp_path / "sets" / folder.name)
    status, output = check(written.directory, base_dir)
    assert status == 0, output
    assert output.count("under its name") == 3


def test_a_refused_set_is_explained(base_dir: Path, tmp_path: Path) -> None:
    written = write_set(tmp_path / "set")
    written.rewrite(top_k=4)
    status, output = check(written.directory, base_dir)
    assert status == 1
    assert "will not load (invalid_adapter)" in output
    assert "top_k is 4, but there are 3 experts" in output
    assert "Traceback" not in output
