"""A web page in the browser of somebody who runs a server without keys on their own machine."""

import pytest

from motet.server.app import ROUTES
from tests.security.raw_http import raw
from tests.server.running_server import BASE, RunningServer

EVIL = b"Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
BODY = f'{{"model": "{BASE}", "prompt": "x", "max_tokens": 1}}'.encode()
# What a page may send to another origin without asking first.
SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")
CHANGING = [
    (method, path.replace("{name:path}", "red"))
    for method, path, _ in ROUTES
    if method not in ("GET", "HEAD")
]


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_page_changes_and_computes_nothing(server: RunningServer, method: str, path: str) -> None:
    """It can send POST with these types; anything else the browser asks for first."""
    num_before = len(server.log.read_text().splitlines())
    for media_type in (*SIMPLE_TYPES, "text/plain; application/json", "application/jsonx"):
        typed = f"Content-Type: {media_type}\r\n".encode() if media_type else b""
        for body in (BODY, b""):
            length = f"Content-Length: {len(body)}\r\n".encode()
            if method == "POST":
                answer = raw(server, f"POST {path} HTTP/1.1", EVIL + typed + length, body)
                # SGLang's endpoints say 400 to all that fails.
                assert answer.status in (415, 400), answer
                assert "access-control-allow-origin" not in answer.headers
    asking = (
        EVIL
        + f"Access-Control-Request-Method: {method}\r\n".encode()
        + b"Access-Control-Request-Headers: authorization, content-type\r\n"
        + b"Access-Control-Request-Private-Network: true\r\n"
    )
    answer = raw(server, f"OPTIONS {path} HTTP/1.1", asking)
    assert answer.status >= 400
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert len(server.log.read_text().splitlines()) == num_before, "the engine was asked"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/admin/v1/memory", "/tokenizer_info"])
def test_a_page_reads_nothing(server: RunningServer, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1", EVIL)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


FOREIGN = [
    *(
        b"evil.example",
        b"evil.example:8000",
        b"localhost.evil.example",
        b"localhost.",
        b"localhost;",
    ),
    *(b"127.0.0.1.nip.io", b"127.0.0.1.evil.example", b"127.1", b"2130706433", b"0x7f000001"),
    *(b"0.0.0.0", b"[::]", b"169.254.169.254", b"10.0.0.1", b"[::ffff:10.0.0.1]", b"evil.example:"),
    *(b"127.0.0.1@evil.example", b"evil.example#localhost", b"evil.example/localhost", b"\xff"),
    *(b"evil.example\tlocalhost", b"localhost,evil.example", b"xn--lcalhost-n2a", b"[localhost"),
]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_was_made_to_resolve_here_is_not_answered_to(
    server: RunningServer, host: bytes
) -> None:
    for path in ("/v1/models", "/metrics", "/admin/v1/memory", "/nothing"):
        answer = raw(server, f"GET {path} HTTP/1.1", host=host)
        assert answer.code in ("host_not_allowed", "invalid_http"), answer


@pytest.mark.parametrize(
    "header",
    [b"X-Forwarded-Host", b"X-Host", b"Forwarded", b"X-Forwarded-Server", b"X-Original-Host"],
)
def test_no_other_header_is_the_name(server: RunningServer, header: bytes) -> None:
    line = header + b": localhost\r\n"
    assert raw(server, "GET /v1/models HTTP/1.1", line, host=b"evil.example").status == 403


def test_the_first_of_two_names_has_to_be_ours_and_so_has_the_second(
    server: RunningServer,
) -> None:
    for first, second in ((b"localhost", b"evil.example"), (b"evil.example", b"localhost")):
        answer = raw(server, "GET /v1/models HTTP/1.1", b"Host: " + second + b"\r\n", host=first)
        assert answer.status in (400, 403), answer


@pytest.mark.parametrize(
    "host", [b"x/live?", b"localhost/live?", b"localhost/live#", b"/live", b"?"]
)
def test_no_name_makes_another_path(guarded: RunningServer, host: bytes) -> None:
    """Others rebuilt a URL from this header, and decided by its path."""
    for path in ("/v1/models", "/admin/v1/memory"):
        assert raw(guarded, f"GET {path} HTTP/1.1", host=host).status in (400, 401)
