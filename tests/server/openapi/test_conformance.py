"""Requests made from the published document: the server refuses what it has to, and no answer is
outside of what the document says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks

from tests.server.conftest import write_adapters, write_set
from tests.server.openapi.api import api
from tests.server.running_server import RunningServer, running_server
from tests.server.some_keys import bearer

_GENERATION = {"deterministic": True, "database": "none"}
_OFF = {"enabled": False}

# Every bound and every type of every field, one after the other.
boundaries = api(generation=_GENERATION, phases={"examples": _OFF, "fuzzing": _OFF})
# Whole requests, valid and not.
anything = api(
    generation={**_GENERATION, "max-examples": 100},
    phases={"examples": _OFF, "coverage": _OFF},
)


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With a key, and with a short context, so that no answer is long."""
    directory = tmp_path_factory.mktemp("conformance")
    adapters = write_adapters(directory / "adapters")
    write_set(adapters / "mix", {"blue": b"blue"})
    with running_server(
        model_dir,
        directory / "engine.jsonl",
        engine={"step_s": 0, "max_model_len": 64, "fails": 0},
        adapter_dir=adapters,
        admin_key="secret",
    ) as running:
        yield running


# Schemas do not say what fields mean together, to a model, to a chat template or as a grammar.
_MEANINGS = (
    "best_of",
    "input",
    "logit_bias",
    "lora",
    "name",
    "max_completion_tokens",
    "min_tokens",
    "messages",
    "return_routing",
    "response_format.json_schema",
    "source",
    "stream_options",
    "structured_outputs",
    "text.format",
    "tool_choice",
    "tools",
    "top_logprobs",
    "weights",
)
_OF_SCHEMAS = {
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "unknown_parameter",
    "unsupported_parameter",
}


@boundaries.parametrize()
def test_boundaries(case: schemathesis.Case, server: RunningServer) -> None:
    call(case, server)


@pytest.mark.slow
@anything.parametrize()
def test_anything(case: schemathesis.Case, server: RunningServer) -> None:
    call(case, server)


def call(case: schemathesis.Case, server: RunningServer) -> None:
    """Send the request, and check its answer against the document."""
    response = case.call(base_url=server.url, headers=bearer("secret"))
    excluded: list[CheckFunction] = []
    if response.status_code in (400, 412) and _is_about_meaning(response.json()):
        excluded.append(checks.positive_data_acceptance)
    if case.path.startswith("/admin/v1/adapters/{name}"):
        # Such a path is that of an adapter, too, for names may have slashes.
        excluded.append(checks.allow_header_conformance)
    case.validate_response(response, headers=bearer("secret"), excluded_checks=excluded)


def _is_about_meaning(body: dict[str, Any]) -> bool:
    """Whether a request that follows its schema may have this error."""
    if "error_message" in body:  # SGLang's answer, which says no more
        return True
    error = body["error"]
    if error["code"] not in _OF_SCHEMAS:  # the context is too short, or it is no adapter
        return True
    if error["code"] == "invalid_type":
        # To JSON schema 1.0 and 1e20 are integers; here they are not.
        return re.search(r"\d(\.0|e\+\d+)\b", error["message"]) is not None
    return error["param"].startswith(_MEANINGS)
