"""The document as a document: it is valid, and says all there is, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from motet.server.app import ROUTES
from motet.server.errors import codes_by_status
from motet.server.openapi.document import OPERATIONS, document
from tests.server.conftest import StartServer
from tests.server.running_server import RunningServer
from tests.server.some_keys import bearer

DOCUMENT = document(is_lenient=False)


def test_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_has_every_route_and_nothing_else() -> None:
    described = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item
    }
    routes = {(method, re.sub(r":path}", "}", path)) for method, path, _ in ROUTES}
    assert described == routes


def test_names_every_error_code() -> None:
    described = DOCUMENT["components"]["schemas"]["ErrorDetails"]["properties"]["code"]
    told = set(re.findall(r"`(\w+)`", described["description"]))
    assert told == {code for codes in codes_by_status().values() for code in codes}


def test_knows_the_status_of_every_code_that_it_names() -> None:
    refusals = re.findall(r"^\| `(\w+)` \|", Path("docs/adapters.md").read_text(), re.MULTILINE)
    known = {code for codes in codes_by_status().values() for code in codes} | set(refusals)
    named = {code for operation in OPERATIONS for code in operation.errors}
    assert named <= known


def test_names_are_not_those_of_python_modules() -> None:
    # pydantic writes a whole path where two models have the same name.
    assert not [name for name in DOCUMENT["components"]["schemas"] if "__" in name]


def test_operation_ids_are_unique() -> None:
    ids = [each["operationId"] for item in DOCUMENT["paths"].values() for each in item.values()]
    assert len(ids) == len(set(ids))


def test_uses_all_that_it_defines() -> None:
    text = json.dumps(DOCUMENT)
    for kind in ("schemas", "headers"):
        for name in DOCUMENT["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, name


def test_says_that_not_every_key_opens_the_metrics() -> None:
    answers = document(is_lenient=False)["paths"]["/metrics"]["get"]["responses"]
    assert "insufficient_permissions" in answers["403"]["description"]


def test_says_what_may_be_null_and_what_does_nothing() -> None:
    fields = DOCUMENT["components"]["schemas"]["CompletionRequest"]["properties"]
    assert fields["temperature"]["anyOf"][1] == {"type": "null"}
    assert fields["model"]["type"] == "string"
    assert fields["store"]["anyOf"] == [{"enum": [False]}, {"type": "null"}]
    assert "audio" not in fields


@pytest.mark.parametrize("is_lenient", [False, True])
def test_says_whether_unknown_parameters_pass(is_lenient: bool) -> None:
    schemas = document(is_lenient=is_lenient)["components"]["schemas"]
    assert schemas["ChatRequest"]["additionalProperties"] is is_lenient
    assert schemas["ResponsesRequest"]["additionalProperties"] is False


def test_is_served(server: RunningServer) -> None:
    answer = server.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


def test_is_served_to_those_with_keys(start_server: StartServer) -> None:
    with start_server(api_key="secret", lenient_parameters=True) as server:
        assert server.get("/openapi.json").status_code == 401
        answer = server.get("/openapi.json", headers=bearer("secret"))
        assert answer.json() == document(is_lenient=True)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_there_are_no_pages_that_load_scripts(server: RunningServer, path: str) -> None:
    assert server.get(path).status_code == 404
