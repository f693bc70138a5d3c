"""Requests made from the published document: the server refuses what it has to, and no answer is
outside of what the document says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from schemathesis.specs.openapi import checks

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


# What fields mean together, and to the model, is more than their schemas say.
_MEANINGS = {
    "best_of",
    "max_completion_tokens",
    "stream_options",
    "structured_outputs",
    "top_logprobs",
    "tool_choice",
    "x-request-timeout",
}


@boundaries.parametrize()
def test_boundaries(case: schemathesis.Case, server: RunningServer) -> None:
    call(case, server)


def call(case: schemathesis.Case, server: RunningServer) -> None:
    """Send the request, and check its answer against the document."""
    response = case.call(base_url=server.url, headers=bearer("secret"))
    excluded = []
    if response.status_code == 400:
        error = response.json()["error"]
        if case.meta.generation.mode.is_positive:
            print("POS400", case.operation.label, error)
        if error["param"] in _MEANINGS or error["code"] not in ("invalid_type", "invalid_value"):
            excluded = [checks.positive_data_acceptance]
    case.validate_response(response, headers=bearer("secret"), excluded_checks=excluded)
