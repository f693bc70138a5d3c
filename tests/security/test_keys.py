"""Getting in without a key, and further in than a key opens."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from motet.server.app import ROUTES as ALL_ROUTES
from motet.server.auth import OPEN_PATHS, is_admin_path
from tests.security.conftest import ADMIN, API, TENANT, StartServer
from tests.security.raw_http import raw
from tests.server.running_server import RunningServer
from tests.server.some_keys import bearer

ROUTES = [(method, path.replace("{name:path}", "red")) for method, path, _ in ALL_ROUTES]
GUARDED = [(method, path.replace("{model:path}", "red")) for method, path in ROUTES]
GUARDED = [(method, path) for method, path in GUARDED if path not in OPEN_PATHS]
ADMIN_ROUTES = [(method, path) for method, path in GUARDED if is_admin_path(path)]
# What a key without the admin role opens; every other route has to take an admin key.
INFERENCE_PATHS = {
    *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/models", "/metrics"),
    "/openapi.json",
    *("/v1/models/red", "/tokenize", "/detokenize", "/tokenizer_info"),
    *("/v1/tokenize", "/v1/detokenize", "/v1/tokenizer_info"),
}
# Refusals that no endpoint utters.
BEFORE_ANY_ROUTE = {"unknown_url", "insufficient_permissions", "invalid_http"}
NO_SUCH_NAME = {"model_not_found", "method_not_allowed"}  # all below /v1/models/ is a name
JSON = b"Content-Type: application/json\r\nContent-Length: 2\r\n"


def test_a_new_route_takes_an_admin_key_unless_it_is_listed_here() -> None:
    assert {path for _, path in GUARDED} - INFERENCE_PATHS == {path for _, path in ADMIN_ROUTES}


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_no_route_is_open_without_a_key(guarded: RunningServer, method: str, path: str) -> None:
    for secret in (None, "wrong", API.upper(), API[:-1], f"{API}x", f"{API},{API}", "*", "null"):
        headers = {} if secret is None else bearer(secret)
        answer = guarded.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), secret


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
@pytest.mark.parametrize("key", [API, TENANT])
def test_no_admin_route_is_open_to_another_key(
    guarded: RunningServer, method: str, path: str, key: str
) -> None:
    answer = guarded.http.request(method, path, headers=bearer(key))
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_permissions"


# The router of Starlette matches with `$`, which also matches before a newline at the end.
_TAILS = ("%0a", "%0A", "%0d%0a", "%00", "%20", "%09", "%c2%85", "%e2%80%a8", "/", "//", ";x=1")
_TAILS += (".", "%2f", "%3f", "%23", "/.", "/..;/", "%2e", "\\", "%5c")
_HEADS = ("/", "/.", "/%2e", "/x/..", "/v1/models/..", "/%0a", "/live/..", "/live%2f..", "%0d%0a")


@pytest.mark.parametrize("tail", _TAILS)
@pytest.mark.parametrize(("method", "path"), [*ADMIN_ROUTES, ("POST", "/v1/completions")])
def test_no_way_to_write_a_path_goes_round_its_guard(
    guarded: RunningServer, method: str, path: str, tail: str
) -> None:
    """Below /admin/ all takes an admin key; elsewhere there has to be no such route at all."""
    line = f"{method} {path}{tail} HTTP/1.1"
    key = f"Authorization: Bearer {TENANT}\r\n".encode()
    answer = raw(guarded, line, JSON + key, b"{}")
    assert answer.code in BEFORE_ANY_ROUTE
    assert raw(guarded, line, JSON, b"{}").code in ("invalid_api_key", "invalid_http")


@pytest.mark.parametrize("head", _HEADS)
@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
def test_nor_what_is_written_before_it(
    guarded: RunningServer, method: str, path: str, head: str
) -> None:
    line = f"{method} {head}{path} HTTP/1.1"
    key = f"Authorization: Bearer {TENANT}\r\n".encode()
    answer = raw(guarded, line, JSON + key, b"{}")
    assert answer.code in {*BEFORE_ANY_ROUTE, *NO_SUCH_NAME}
    assert raw(guarded, line, JSON, b"{}").code in ("invalid_api_key", "invalid_http")


def test_a_newline_after_the_path_loads_nothing(guarded: RunningServer) -> None:
    body = {"lora_name": "evil", "lora_path": "red"}
    for path in ("/v1/load_lora_adapter%0a", "/v1/load_lora_adapter%0A?x", "/v1/completions%0a"):
        for key in (API, TENANT, ADMIN):
            answer = guarded.post(path, body, headers=bearer(key))
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    models = guarded.get("/v1/models", headers=bearer(API)).json()["data"]
    assert "evil" not in [each["id"] for each in models]


def test_the_public_listener_knows_no_admin_route_however_it_is_written(
    start_server: StartServer, adapters_dir: Path
) -> None:
    options: dict[str, Any] = {"api_key": API, "admin_key": ADMIN, "admin_port": 0}
    with start_server(**options, adapter_dir=adapters_dir) as server:
        for method, path in ADMIN_ROUTES:
            for tail in ("", *_TAILS):
                key = f"Authorization: Bearer {ADMIN}\r\n".encode()
                answer = raw(server, f"{method} {path}{tail} HTTP/1.1", JSON + key, b"{}")
                assert answer.code in ("unknown_url", "invalid_http"), (path, tail)


@pytest.mark.parametrize(
    "headers",
    [
        "X-Original-URL: /live",
        "X-Rewrite-URL: /live",
        "X-Forwarded-For: 127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "Forwarded: for=127.0.0.1;host=localhost",
        "X-Forwarded-Prefix: /live",
        "X-Forwarded-Path: /live",
        "X-HTTP-Method-Override: OPTIONS",
        "X-Method-Override: GET",
        "X-Api-Key: " + API,
        "Api-Key: " + API,
        "Cookie: Authorization=Bearer " + API,
        "Proxy-Authorization: Bearer " + API,
        "Authorization: Basic " + API,
        "Authorization: Bearer\t" + API,
        "Authorization: Bearer wrong\r\nAuthorization: Bearer " + API,
        "Authorization: Bearer wrong, Bearer " + API,
        "Authorization: Bearer \xff\xfe",
        "Authorization : Bearer " + API,
        "Authorization: Bearer\r\n " + API,
    ],
)
def test_no_other_header_is_a_key(guarded: RunningServer, headers: str) -> None:
    answer = raw(guarded, "GET /v1/models HTTP/1.1", f"{headers}\r\n".encode("latin-1"))
    assert answer.status in (401, 400)
    override = f"{headers}\r\n".encode("latin-1") + f"Authorization: Bearer {TENANT}\r\n".encode()
    answer = raw(guarded, "GET /admin/v1/memory HTTP/1.1", override)
    assert answer.status in (401, 403, 400)


@pytest.mark.parametrize("query", ["api_key", "key", "access_token", "authorization"])
def test_no_key_is_taken_from_a_url(guarded: RunningServer, query: str) -> None:
    """It would be in the log of every proxy."""
    assert guarded.get(f"/v1/models?{query}={API}").status_code == 401


def test_a_second_request_on_a_connection_needs_its_own_key(guarded: RunningServer) -> None:
    assert guarded.get("/v1/models", headers=bearer(API)).status_code == 200
    assert guarded.get("/v1/models").status_code == 401


def test_no_key_is_told_or_logged(guarded: RunningServer) -> None:
    secrets = (API, ADMIN, TENANT, "a-guess-at-a-key")
    with structlog.testing.capture_logs() as lines:
        for key in secrets:
            for path in ("/v1/models", "/nothing", "/metrics", "/admin/v1/memory"):
                answer = guarded.get(path, headers=bearer(key))
                told = answer.text + str(dict(answer.headers))
                assert not any(secret in told for secret in secrets)
            guarded.post("/v1/completions", {"model": "none"}, headers=bearer(key))
    assert len(lines) >= len(secrets)
    assert not any(secret in str(lines) for secret in secrets)
