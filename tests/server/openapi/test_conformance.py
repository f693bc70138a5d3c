"""Requests made from the published document: the server refuses what it has to, and no answer is
outside of what the document says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis

from tests.server.conftest import write_adapters
from tests.server.openapi.api import api
from tests.server.running_server import RunningServer, running_server
from tests.server.some_keys import bearer

_GENERATION = {"deterministic": True, "database": "none", "max-examples": 10}

boundaries = api(
    generation=_GENERATION,
    phases={"examples": {"enabled": False}, "fuzzing": {"enabled": False}},
)


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With a key, and with a short context, so that no answer is long."""
    directory = tmp_path_factory.mktemp("conformance")
    adapters = write_adapters(directory / "adapters")
    with running_server(
        model_dir,
        directory / "engine.jsonl",
        engine={"step_s": 0, "max_model_len": 64},
        adapter_dir=adapters,
        admin_key="secret",
    ) as running:
        yield running


@boundaries.parametrize()
def test_boundaries(case: schemathesis.Case, server: RunningServer) -> None:
    case.call_and_validate(base_url=server.url, headers=bearer("secret"))
