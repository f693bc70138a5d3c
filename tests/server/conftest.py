"""Fixtures of the server's tests: one shared server, and a way to start others."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.server.fake_engine import HIDDEN_SIZE, digest_of
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.tiny_model import write_tiny_model

StartServer = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session", autouse=True)
def _logs_go_to_pytest() -> None:
    """Which shows them for tests that fail, and keeps them out of captured output."""
    structlog.configure(
        processors=[structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def adapters_dir(tmp_path: Path) -> Path:
    """Two adapters of the fake engine's, "red" and "blue"."""
    return write_adapters(tmp_path / "adapters")


def write_adapters(directory: Path) -> Path:
    for name in ("red", "blue"):
        write_adapter(directory / name, name.encode())
    return directory


def write_adapter(directory: Path, content: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "weights").write_bytes(content)


def write_set(directory: Path, contents: Mapping[str, bytes], **more: object) -> None:
    """A routed set of the fake engine's, whose experts the server has under these names.

    Args:
        more: fields of its configuration, also in the place of what it would have.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": 1,
        "method": "meteora",
        "base_model": {"name": BASE, "hidden_size": HIDDEN_SIZE, "num_layers": 2},
        "experts": [
            {"name": name, "digest": digest_of(content)} for name, content in contents.items()
        ],
        "top_k": 1,
        **more,
    }
    (directory / "router_config.json").write_text(json.dumps(config))


@pytest.fixture
def start_server(model_dir: Path, tmp_path: Path) -> StartServer:
    def start(**options: Any) -> AbstractContextManager[RunningServer]:
        return running_server(model_dir, tmp_path / "engine.jsonl", **options)

    return start


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two adapters that tests of one module share, and leave as it was."""
    directory = tmp_path_factory.mktemp("shared")
    adapters = write_adapters(directory / "adapters")
    with running_server(model_dir, directory / "engine.jsonl", adapter_dir=adapters) as running:
        yield running
