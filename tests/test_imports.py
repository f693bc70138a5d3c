"""Who may import whom, what must start without torch, and what must not be in the tree at all."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "motet"

# ARCHITECTURE: imports run downward only. A part may always import itself.
ALLOWED = {
    "server": {"engine", "scheduler", "memory", "adapters", "training", "bench", "core"},
    "bench": {"core"},
    "training": {"adapters", "models", "core"},
    "engine": {"scheduler", "memory", "adapters", "models", "kernels", "core"},
    "scheduler": {"memory", "core"},
    "memory": {"kernels", "core"},
    "models": {"kernels", "core"},
    "adapters": {"core"},
    "kernels": set(),
    "core": set(),
}
# The four links at the top of the tree, which are there for readers and not for imports.
LINKS = {"kernels", "memory", "scheduler", "server"}
NOT_SHIPPED = {"tests", "benchmarks", "examples"}
HEAVY = ("torch", "numba", "triton", "transformers")

UNPICKLING_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
} | {
    "shelve",
    "jsonpickle",
}
UNPICKLING_CALLS = {
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.serialization.load",
    "torch.package.PackageImporter",
    "pandas.read_pickle",
    "numpy.core.multiarray._reconstruct",
}


@dataclass(frozen=True)
class Import:
    """One imported name: `from a.b import c` is the target "a.b.c"."""

    path: Path
    line: int
    target: str

    @property
    def parts(self) -> list[str]:
        return self.target.split(".")

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.target}"


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path, tree: ast.AST) -> Iterator[Import]:
    """All imports of a file, those within functions and those by name included."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield Import(path, node.lineno, ".".join([*module, alias.name]))
        elif isinstance(node, ast.Call) and dotted_name(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            target = node.args[0] if node.args else None
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield Import(path, node.lineno, target.value)
            else:
                # What is imported cannot be seen here, so it is nobody's to allow.
                yield Import(path, node.lineno, "<computed>")


def dotted_name(node: ast.AST) -> str:
    """ "a.b.c" of an expression like a.b.c; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def part_of(path: Path) -> str | None:
    """The part that a file of the package belongs to; None for the package's own files."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def direction_errors(path: Path, tree: ast.AST) -> list[str]:
    part = part_of(path)
    allowed = ALLOWED[part] | {part} if part else set()
    errors = []
    for item in imports_of(path, tree):
        if item.target == "<computed>":
            errors.append(f"{item}: imports must be visible to this test")
        elif item.parts[0] in NOT_SHIPPED:
            errors.append(f"{item}, which is not shipped")
        elif item.parts[0] == "motet" and len(item.parts) > 1:
            target = item.parts[1]
            if target in ALLOWED and target not in allowed:
                errors.append(f"{item}, but {part or 'the package itself'} may import {allowed}")
    return errors


def link_errors(path: Path, tree: ast.AST) -> list[str]:
    imports = imports_of(path, tree)
    return [f"{item} through a link" for item in imports if item.parts[0] in LINKS]


def unpickling_errors(path: Path, tree: ast.AST) -> list[str]:
    names: dict[str, str] = {}  # what a name in this file stands for
    errors = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for item in imports_of(path, tree):
        if UNPICKLING_MODULES & set(item.parts) or item.target in UNPICKLING_CALLS:
            errors.append(str(item))
    for node in ast.walk(tree):
        first, _, rest = dotted_name(node).partition(".")
        name = f"{names.get(first, first)}.{rest}"
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if name in UNPICKLING_CALLS:
            errors.append(f"{where} names {name}")
        if isinstance(node, ast.keyword) and (
            node.arg == "trust_remote_code"
            or (node.arg == "allow_pickle" and getattr(node.value, "value", None) is not False)
        ):
            errors.append(f"{where} passes {node.arg}")
    return errors


def errors_in(source: str, check: object, path: str = "motet/scheduler/x.py") -> list[str]:
    assert callable(check)
    errors = check(ROOT / path, ast.parse(source))
    assert isinstance(errors, list)
    return errors


def test_every_part_is_known() -> None:
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert parts == set(ALLOWED)


@pytest.mark.parametrize(
    "path", python_files(PACKAGE), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_run_downward(path: Path) -> None:
    assert direction_errors(path, parse(path)) == []


def test_training_is_reached_from_its_command_alone() -> None:
    """It loads what no server needs."""
    importers = {
        item.path.relative_to(PACKAGE).as_posix()
        for path in python_files(PACKAGE)
        if part_of(path) != "training"
        for item in imports_of(path, parse(path))
        if item.parts[:2] == ["motet", "training"]
    }
    assert importers == {"server/train_router_command.py"}


def test_nothing_imports_through_the_links() -> None:
    files = python_files(PACKAGE, *(ROOT / folder for folder in sorted(NOT_SHIPPED)))
    assert [error for path in files for error in link_errors(path, parse(path))] == []


def test_the_links_lead_to_the_parts() -> None:
    assert {link: (ROOT / link).resolve() for link in LINKS} == {
        link: (PACKAGE / link).resolve() for link in LINKS
    }


@pytest.mark.parametrize(
    "source",
    [
        "import motet.engine.engine",
        "from motet.engine import engine",
        "from motet import models",
        "from ..kernels import types",
        "from .. import kernels",
        "def f():\n    import motet.server.app",
        "import importlib\nimportlib.import_module('motet.kernels.types')",
        "import importlib\nimportlib.import_module(name)",
        "import tests.conftest",
        "from benchmarks import locustfile",
    ],
)
def test_a_wrong_import_is_found(source: str) -> None:
    assert errors_in(source, direction_errors)


@pytest.mark.parametrize(
    "source",
    [
        "import motet.core.messages",
        "from motet.memory.geometry import PageGeometry",
        "from . import sequence",
        "from ..memory import geometry",
        "from motet import __version__",
        "import memory_profiler",
    ],
)
def test_a_right_import_is_not(source: str) -> None:
    assert errors_in(source, direction_errors) == []
    assert errors_in(source, link_errors) == []


@pytest.mark.parametrize("source", ["import kernels", "from memory.geometry import PageGeometry"])
def test_an_import_through_a_link_is_found(source: str) -> None:
    assert errors_in(source, link_errors)


@pytest.mark.parametrize(
    "path", python_files(PACKAGE), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert unpickling_errors(path, parse(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from multiprocessing.reduction import pickle",
        "import torch\ntorch.load(path)",
        "import torch as t\nload = t.load",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "f(allow_pickle=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "__import__('marshal')",
    ],
)
def test_unpickling_is_found(source: str) -> None:
    assert errors_in(source, unpickling_errors)


@pytest.mark.parametrize(
    "source",
    [
        "import safetensors.torch\nsafetensors.torch.load(content)",
        "from safetensors.torch import load",
        "import json\njson.load(file)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "pickled = ['.bin']",
    ],
)
def test_reading_safely_is_not(source: str) -> None:
    assert errors_in(source, unpickling_errors) == []


def loaded_by(module: str, among: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of these packages a fresh interpreter has after one import."""
    program = f"import sys, {module}; print(*[m for m in {among!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "motet",
        "motet.core.messages",
        "motet.core.config",
        "motet.adapters.router_config",
        "motet.memory.geometry",
        "motet.memory.residency",
        "motet.scheduler.scheduler",
    ],
)
def test_plain_parts_start_without_heavy_packages(module: str) -> None:
    assert loaded_by(module) == set()


@pytest.mark.parametrize("module", ["motet.server.app", "motet.server.cli"])
def test_the_api_process_starts_without_torch(module: str) -> None:
    # The tokenizer is the API process's, so transformers may be there; no tensor library may.
    assert loaded_by(module) <= {"transformers"}


def test_the_subprocess_check_sees_what_is_loaded() -> None:
    assert loaded_by("motet.memory.geometry", ("numpy", "torch")) == {"numpy"}


def text_files() -> Iterator[tuple[Path, str]]:
    """All files that are, or would be, under version control and are text."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:  # an unpacked source archive
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts[:-1])
        ]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text


# Written in pieces, or this file would be its own finding.
REGISTRY_HOSTS = [
    ".".join(pieces)
    for pieces in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("anaconda", "org"),
    )
]
MACHINE_PATHS = [
    "/" + "/".join(pieces) for pieces in (("work", ""), ("root", ""), ("tmp", "w", ""))
]
HOME = r"/(?:home|Users)/(?!motet\b)[A-Za-z]"  # motet is the user within the image
UNWANTED = re.compile(
    "|".join(
        [
            *(rf"(?<![\w-]){re.escape(host)}\b" for host in REGISTRY_HOSTS),
            *(rf"(?<![\w.}}$-]){re.escape(path)}" for path in MACHINE_PATHS),
            rf"(?<![\w.}}$-]){HOME}",
        ]
    )
)


def test_no_file_names_a_registry_or_a_path_of_some_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        for match in UNWANTED.finditer(line)
    ]
    assert found == []


def test_the_search_finds_them() -> None:
    for text in (
        f"https://{REGISTRY_HOSTS[0]}/simple",
        f"https://files.{REGISTRY_HOSTS[1]}/x",
        f"{MACHINE_PATHS[0]}main",
        "'/" + "home/alice/x",
    ):
        assert UNWANTED.search(text), text
    for text in ("framework/x", "a/root/b", "docs/home/x", "python.org"):
        assert not UNWANTED.search(text), text


def test_no_file_of_the_product_trusts_remote_code() -> None:
    name = "trust_" + "remote_code"
    files = [path for path, text in text_files() if name in text]
    assert [path for path in files if path.is_relative_to(PACKAGE)] == []
