"""What the documents say exists: commands, options, links, parameters, metrics."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
PAGE_LINES = 60  # of a printed page

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(language: str) -> list[Any]:
    """Every block of a language, with its page as the test's name."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (kind, block) in enumerate(_FENCE.findall(page.read_text()))
        if kind == language
    ]


def commands(program: str) -> list[list[str]]:
    """The words of every command of a program in the documents' shell blocks."""
    statements = [each for block in fenced("sh") for each in _statements(block.values[0])]
    return [words for words in statements if words[:1] == [program]]


def _statements(script: str) -> list[list[str]]:
    """Split at line ends, but for those within quotes and after a backslash."""
    statements, pending = [], ""
    for line in script.splitlines():
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        pending += line + "\n"
        try:
            statements.append(shlex.split(pending, comments=True))
        except ValueError:  # a quotation goes on
            continue
        pending = ""
    assert not pending, f"a command without an end: {pending}"
    return statements


def links() -> list[Any]:
    found = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text())):
            found.append(pytest.param(page, target, id=f"{page.relative_to(ROOT)}-{target}"))
    return found


def test_there_are_pages_to_check() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/glossary.md"} <= names


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_to_files_of_the_repository(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    assert "://" not in target, "the documents stand on their own"
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    assert file.is_relative_to(ROOT)
    if anchor:
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        slugs = {
            re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings
        }
        assert anchor in slugs


def test_architecture_and_contributing_stay_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 200
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= PAGE_LINES


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_has_every_target_that_is_named(words: list[str]) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *words[1:2]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert re.findall(r"^make (\w+)", shown, re.MULTILINE) == targets
    assert set(phony.split()) == set(targets)


def motet_commands() -> list[list[str]]:
    """Commands of Motet, those that a container runs among them."""
    runs = [words for words in commands("docker") if words[1] == "run"]
    assert runs
    in_containers = [["motet", "serve", *words[words.index("motet") + 1 :]] for words in runs]
    return [*commands("motet"), *in_containers]


@pytest.mark.parametrize("words", motet_commands(), ids=" ".join)
def test_motet_has_every_command_and_option_that_is_named(words: list[str]) -> None:
    from motet.server.cli import app

    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in options


@pytest.mark.parametrize("words", commands("curl"), ids=" ".join)
def test_requests_of_the_documents_are_valid(words: list[str]) -> None:
    from motet.server.parsing import parse
    from motet.server.protocol import ChatRequest, CompletionRequest, LoadAdapterRequest

    model_of_path: dict[str, Any] = {
        "/v1/chat/completions": ChatRequest,
        "/v1/completions": CompletionRequest,
        "/v1/load_lora_adapter": LoadAdapterRequest,
    }
    address, path = re.fullmatch(r"(http://[^/]*)(/.*)", words[1]).groups()
    assert address in ("http://127.0.0.1:8000", "http://localhost:8000")
    assert "Content-Type: application/json" in words
    parse(model_of_path[path], json.loads(words[words.index("-d") + 1]))


@pytest.mark.parametrize("block", fenced("python"))
def test_python_of_the_documents_compiles(block: str) -> None:
    compile(block, "document", "exec")


@pytest.mark.parametrize("block", fenced("json"))
def test_json_of_the_documents_is_json(block: str) -> None:
    json.loads(block)


def test_the_api_page_has_every_parameter_and_error_code() -> None:
    from motet.server import errors, protocol

    page = (ROOT / "docs" / "api.md").read_text() + (ROOT / "docs" / "adapters.md").read_text()
    for model in (
        protocol.CompletionRequest,
        protocol.ChatRequest,
        protocol.LoadAdapterRequest,
        protocol.UnloadAdapterRequest,
    ):
        for name in model.model_fields:
            assert f"`{name}`" in page, name
    told = set(errors._STATUS_OF_CODE) | errors._BAD_REQUEST_CODES
    for code in told - {"client_closed_request"}:  # nobody is there to read it
        assert f"`{code}`" in page, code


def test_the_api_page_has_every_route() -> None:
    from motet.server.app import ROUTES

    page = (ROOT / "docs" / "api.md").read_text()
    for method, path, _ in ROUTES:
        written = path.replace("{model:path}", "{id}").replace("{name:path}", "{name}")
        assert f"{method} {written}" in page, path


def test_the_operations_page_has_every_metric() -> None:
    from motet.server.metrics import Metrics
    from tests.server.stats import some_snapshot, some_stats

    metrics = Metrics()
    metrics.update(some_snapshot(stats=some_stats(), engine_pid=os.getpid()))
    text = metrics.exposition().decode()
    exposed = set(re.findall(r"^# TYPE (\S+) (?:counter|gauge|histogram)$", text, re.MULTILINE))
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"`((?:motet_|vllm:|process_)\w+)", page))
    assert exposed == documented
