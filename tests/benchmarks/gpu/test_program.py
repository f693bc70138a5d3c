"""The whole program, tiny, on a CPU; and what it says where it cannot run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import engine_runs, needs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.model import random_model
from benchmarks.gpu.options import Variant, plain_kernels, variants
from benchmarks.gpu.parts import Part, run_parts
from benchmarks.gpu.plans import REAL, TINY
from benchmarks.gpu.trace_table import trace_cases

ROOT = Path(__file__).resolve().parents[3]
RUN = ROOT / "benchmarks" / "gpu" / "run.sh"
# Packages that Motet has, and a machine with a GPU may lack.
ABSENT = ("numba", "llvmlite", "zmq", "fastapi", "transformers", "huggingface_hub", "gguf")


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(RUN), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
    )


def machine_without(directory: Path, *packages: str) -> str:
    """A folder for PYTHONPATH with which these packages cannot be imported."""
    for package in packages:
        (directory / f"{package}.py").write_text("raise ImportError('this machine lacks it')\n")
    return str(directory)


@pytest.mark.slow
def test_everything_runs_from_the_root_without_the_server_s_packages(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    out_dir = tmp_path / "out"
    done = run(str(out_dir), "--tiny", PYTHONPATH=machine_without(absent, *ABSENT))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out_dir / "report.json").read_text())
    assert report["is_correct"] is True
    assert report["machine"]["torch"] == torch.__version__
    assert report["copy_gb_per_s"] > 0
    parts: dict[str, Any] = report["parts"]
    for name, part in parts.items():
        assert part["errors"] == {}, name
        assert part["left_out"] == [], name
        assert part["checks"] or part["figures"], name
    figures = [figure for part in parts.values() for figure in part["figures"]]
    assert all(figure["value"] is not None for figure in figures)
    with_target = {figure["name"] for figure in figures if figure["target"] is not None}
    assert with_target == {*report["targets_reached"], *report["targets_missed"]}
    assert "every kernel is right" in done.stdout.splitlines()[-1]


def tiny_bench() -> Bench:
    return Bench(
        plan=TINY,
        device=torch.device("cpu"),
        kernels=plain_kernels(),
        copy_bytes_per_s=1e9,
        cache_bytes=1,
        seed=5,
    )


@pytest.mark.slow
def test_variants_are_compared_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Variant("no prefix cache", config={"prefix_cache": False})
    monkeypatch.setattr(engine_runs, "variants", lambda device: [changed])
    bench = tiny_bench()
    model = random_model(TINY, bench.device, bench.seed)
    part = Part("options", 1.0, lambda: engine_runs.variant_cases(bench, model))
    (report,) = run_parts([part], 600.0, lambda line: None)
    assert report.errors == {}
    plan = TINY.engine
    assert len(report.figures) == len(plan.base_batches) + len(plan.lora_decodes)
    assert all("no prefix cache over default" in figure.name for figure in report.figures)
    assert all(figure.value > 0 for figure in report.figures)


def test_a_cpu_is_given_no_option_that_takes_a_gpu() -> None:
    on_cpu = variants(torch.device("cpu"))
    for variant in on_cpu:
        variant.make_kernels()
    on_gpu = [variant.name for variant in variants(torch.device("cuda"))]
    assert [variant.name for variant in on_cpu] == ["no CUDA graphs"]
    assert on_gpu == ["no CUDA graphs", "shrink beside the product"]


@pytest.mark.slow
def test_the_first_cell_of_a_row_is_what_the_others_are_compared_with() -> None:
    bench = tiny_bench()
    model = random_model(TINY, bench.device, bench.seed)
    part = Part("table", 1.0, lambda: trace_cases(bench, model))
    (report,) = run_parts([part], 600.0, lambda line: None)
    assert report.errors == {}
    for figure in report.figures:
        assert figure.floor is not None
        assert 0 < figure.floor <= 1.0
        assert figure.details["num_steps"] > 0
        if "n = 2 over n = 2" in figure.name:
            assert figure.value == figure.floor == 1.0


def test_the_shape_is_that_of_llama_3_1_8b() -> None:
    shape = REAL.config.shape
    assert (shape.num_layers, shape.hidden_size, shape.intermediate_size) == (32, 4096, 14336)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim) == (32, 8, 128)
    assert shape.vocab_size == 128256


def test_without_an_output_folder_it_says_how_it_is_called() -> None:
    for arguments in ((), ("--tiny",)):
        done = run(*arguments)
        assert done.returncode == 2
        assert "usage: benchmarks/gpu/run.sh OUT_DIR" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would run")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "There is no GPU here; --tiny tries the program on a CPU.\n"


def test_what_is_missing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "PACKAGES", {"json": "json", "no_such": "no-such", "nor": "nor"})
    assert needs.missing_packages() == ["no-such", "nor"]
    monkeypatch.setattr(sys, "argv", ["needs", "--names"])
    needs.main()
    assert capsys.readouterr().out == "no-such nor\n"
    monkeypatch.setattr(sys, "argv", ["needs"])
    with pytest.raises(SystemExit, match=r"Missing: no-such nor\. Put their wheels.*WHEELS"):
        needs.main()


def test_a_bare_interpreter_is_told_all_that_it_lacks(tmp_path: Path) -> None:
    site = tmp_path / "bare"
    site.mkdir()
    # An interpreter that finds no package of the virtual environment.
    bare = site / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    done = run(str(tmp_path / "out"), "--tiny", PYTHON=str(bare), PYTHONPATH="")
    assert done.returncode == 2
    assert "Missing: torch triton numpy" in done.stderr
    assert "msgspec" in done.stderr
    assert "WHEELS" in done.stderr


def test_the_list_of_packages_is_whole() -> None:
    program = (
        "import sys, torch, triton, numpy; before = set(sys.modules);"
        "import benchmarks.gpu.program;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    # torch brings tqdm for itself, and numpy.random Cython's runtime; the wheel of mypyc is a part
    # of the package that holds it.
    loaded -= {"benchmarks", "motet", "torch", "triton", "tqdm", "cython_runtime"}
    loaded = {name for name in loaded if not name.startswith("_")}
    assert loaded <= set(needs.PACKAGES)
    assert {"msgspec", "psutil", "pydantic", "safetensors"} <= loaded
