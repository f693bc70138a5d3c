"""What a client writes, where it does not belong: in log lines, in headers; and what it is told."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import motet
from motet.server.logs import rendering_processors
from tests.security.conftest import ADMIN, API, TENANT, StartServer
from tests.security.raw_http import raw
from tests.server.fake_engine import FAIL_TOKEN
from tests.server.running_server import RunningServer
from tests.server.some_keys import bearer

FORGED = "red\n2026-01-01 [info] audit action=adapter.delete\r\n\x1b[2J\x1b[31m\x9b\u2028\x00"


@pytest.fixture(params=[False, True], ids=["machine", "terminal"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the server writes to its log while a test runs."""
    before = structlog.get_config()
    sink = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, *rendering_processors(request.param)],
        logger_factory=structlog.PrintLoggerFactory(sink),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    yield sink
    structlog.configure(**before)


# What the terminal's own renderer writes in colour.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_no_value_of_a_clients_begins_another_log_line(
    guarded: RunningServer, log: io.StringIO
) -> None:
    path = "%0a2026%20[info]%1b[2J%0d%9b"
    for key in (API, ADMIN, TENANT, "none"):
        headers = bearer(key)
        guarded.post("/v1/completions", {"model": FORGED, "prompt": "x"}, headers=headers)
        guarded.get(f"/v1/models/{path}", headers=headers)
        guarded.get(f"/{path}", headers=headers)
        body = {"lora_name": FORGED, "lora_path": FORGED}
        guarded.post("/v1/load_lora_adapter", body, headers=headers)
        guarded.post("/v1/load_lora_adapter", body | {"lora_name": "a"}, headers=headers)
        guarded.post("/v1/unload_lora_adapter", body, headers=headers)
        raw(guarded, f"GET /v1/models/{path} HTTP/1.1", b"X-Request-Id: a\x0b2026\r\n")
    lines = log.getvalue().split("\n")
    assert lines.pop() == ""
    assert lines
    for line in lines:
        assert "\x1b[31m" not in line
        plain = COLOUR.sub("", line)
        assert plain.startswith(("{", "[info", "[warning")), line
        assert not set(plain) & set(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029)))


@pytest.mark.parametrize(
    "given",
    [
        *(
            b"a\x0bb",
            b"a b",
            b"a;b",
            b"a,b",
            b"<script>",
            b"${jndi:ldap://evil/x}",
            b"\xff",
            b"%0d%0a",
        ),
        *(b"x" * 129, b"x" * 10_000, b"../../x", b"", b"a\tb", b"{{7*7}}", b"\xc3\xa9"),
    ],
)
def test_only_a_plain_request_id_is_given_back(server: RunningServer, given: bytes) -> None:
    answer = raw(server, "GET /v1/models HTTP/1.1", b"X-Request-Id: " + given + b"\r\n")
    told = answer.headers["x-request-id"].encode("latin-1")
    assert told != given
    assert told.isalnum()
    assert len(told) == 32


def test_a_request_id_ends_no_header(server: RunningServer) -> None:
    line = b"X-Request-Id: a\r\nX-Request-Id: b\r\nX-Evil: \nSet-Cookie: x=1\r\n"
    answer = raw(server, "GET /v1/models HTTP/1.1", line)
    assert answer.status in (200, 400)
    assert "set-cookie" not in answer.headers
    assert "x-evil" not in answer.headers


def test_no_answer_says_what_software_this_is(server: RunningServer) -> None:
    for path in ("/live", "/v1/models", "/nothing"):
        headers = raw(server, f"GET {path} HTTP/1.1").headers
        assert "server" not in headers
        assert "x-powered-by" not in headers


def test_no_documentation_page_tells_of_the_routes(guarded: RunningServer) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/debug", "/.env"):
        assert guarded.get(path).status_code == 401


def test_a_failure_tells_neither_where_nor_why(
    start_server: StartServer, adapters_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the API process nor of the engine: no traceback, no path, no exception's text."""
    secret = "the-text-of-the-exception"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{secret} in {__file__}")

    with start_server(adapter_dir=adapters_dir) as server:
        monkeypatch.setattr("motet.server.tokenizer.TextTokenizer.encode", fail)
        monkeypatch.setattr("motet.server.tokenizer.TextTokenizer.encode_chat", fail)
        body = {"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize"):
            fields = {"model", "messages"} if "chat" in path else {"model", "prompt"}
            sent = {name: value for name, value in body.items() if name in fields}
            if path == "/v1/responses":
                sent = {"model": "tiny", "input": "x"}
            answer = server.post(path, sent)
            assert answer.status_code == 500, answer.text
            assert answer.json()["error"]["code"] == "internal_error"
            for word in (secret, "Traceback", "RuntimeError", ".py", "/", motet.__file__):
                assert word not in answer.text, answer.text


def test_a_failure_of_the_engines_is_told_in_its_own_words(server: RunningServer) -> None:
    answer = server.complete([FAIL_TOKEN])
    assert answer.status_code == 500
    assert "Traceback" not in answer.text


def test_what_is_refused_is_quoted_in_short(server: RunningServer) -> None:
    """No answer is as long as what was sent: nobody is made to carry it."""
    long = "\U000e0001" * 500_000  # ten characters each, as Python writes it
    for field in ("temperature", "stop", "model", "user", "tools", "response_format", long[:1000]):
        answer = server.complete("x", **{field: long})
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 4000, field
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        answer = server.post(path, {"lora_name": long, "lora_path": long})
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 4000
