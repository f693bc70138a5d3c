"""Parameters without bounds: each cap at its value and one beyond, and values of absurd sizes."""

import gzip
from typing import Any

import orjson
import pytest

from motet.server.budget import MAX_TOTAL_TOKENS
from motet.server.json_bounds import MAX_JSON_DEPTH, MAX_JSON_PARTS
from motet.server.protocol import MAX_CHOICES, MAX_MESSAGES, MAX_PROMPTS
from tests.security.conftest import StartServer
from tests.server.running_server import BASE, RunningServer

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"

# A field, the most that it may be, and one more than that.
CAPS: list[tuple[str, Any, Any]] = [
    ("n", MAX_CHOICES, MAX_CHOICES + 1),
    ("best_of", MAX_CHOICES, MAX_CHOICES + 1),
    ("logprobs", 20, 21),
    ("prompt_logprobs", 20, 21),
    ("temperature", 2, 2.0001),
    ("top_p", 1, 1.0001),
    ("min_p", 1, 1.0001),
    ("repetition_penalty", 2, 2.0001),
    ("presence_penalty", 2, 2.0001),
    ("frequency_penalty", -2, -2.0001),
    ("seed", 2**63 - 1, 2**63),
    ("seed", -(2**63), -(2**63) - 1),
    ("stop", ["x"] * 4, ["x"] * 5),
    ("stop", "x" * 256, "x" * 257),
    ("stop_token_ids", [3] * 64, [3] * 65),
    ("stop_token_ids", [258], [259]),
    ("logit_bias", {"5": 100}, {"5": 100.1}),
    ("logit_bias", {"258": 1}, {"259": 1}),
    ("logit_bias", {str(i): 1 for i in range(259)}, {str(i): 1 for i in range(1025)}),
    ("cache_salt", "x" * 256, "x" * 257),
    ("user", "x" * 512, "x" * 513),
    ("min_tokens", 8, 9),
    ("prompt", ["x"] * MAX_PROMPTS, ["x"] * (MAX_PROMPTS + 1)),
    ("prompt", [258], [259]),
]


@pytest.mark.parametrize(("field", "most", "more"), CAPS)
def test_each_cap_is_where_it_is_said_to_be(
    server: RunningServer, field: str, most: Any, more: Any
) -> None:
    assert server.complete(**{"prompt": "x", field: most}).status_code == 200
    refused = server.complete(**{"prompt": "x", field: more})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(field)


def test_products_of_what_is_allowed_are_bounded_too(server: RunningServer) -> None:
    """64 prompts of 16 choices, or 16 choices of a million tokens."""
    for body in (
        {"prompt": ["x"] * 64, "n": 16},
        {"prompt": ["x"] * 64, "best_of": 16},
        {"prompt": ["x"] * 9, "n": 15},
        {"n": 16, "max_tokens": MAX_TOTAL_TOKENS // 16 + 1},
        {"max_tokens": 2**31},
        {"max_tokens": 2**63},
        {"prompt": "x" * 600},
    ):
        assert server.complete(**{"prompt": "x", **body}).status_code == 400, body


ABSURD = [
    *("-1", "1e308", "-1e308", "1e-400", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "-0.0"),
    *("9" * 400, "-" + "9" * 400, "9" * 5000, "1" + "0" * 100_000, "0." + "3" * 100_000, "1e5"),
    *("2147483648", "4294967296", "9223372036854775808", "18446744073709551616", "0x10", "1_000"),
    *("true", "[]", "{}", '""', '"1"', "[[1]]", '{"a": 1}', '"\\u0000"', '"\\ud800"', "01", "+1"),
]
NUMBERS = [
    *("n", "best_of", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "seed", "top_k"),
    *("temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty", "priority"),
]


@pytest.mark.parametrize("text", ABSURD, ids=lambda text: text[:20])
def test_no_number_breaks_the_server(server: RunningServer, text: str) -> None:
    for field in NUMBERS:
        prefix = "" if field == "max_tokens" else '"max_tokens": 8, '
        body = f'{{"model": "{BASE}", "prompt": "x", {prefix}"{field}": {text}}}'
        answer = server.post("/v1/completions", content=body.encode(), headers=JSON)
        assert answer.status_code in (200, 400), (field, answer.text)
        assert len(answer.content) < 2000
    for field in ("stop_token_ids", "prompt"):
        prompt = "" if field == "prompt" else '"prompt": "x", '
        body = f'{{"model": "{BASE}", {prompt}"{field}": [{text}]}}'
        answer = server.post("/v1/completions", content=body.encode(), headers=JSON)
        assert answer.status_code in (200, 400), (field, answer.text)
    for body in (
        f'{{"model": "{BASE}", "prompt": "x", "logit_bias": {{"5": {text}}}}}',
        f'{{"model": "{BASE}", "prompt": "x", "logit_bias": {{{orjson.dumps(text).decode()}: 1}}}}',
    ):
        answer = server.post("/v1/completions", content=body.encode(), headers=JSON)
        assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    "value",
    [
        "nan",
        "inf",
        "-1",
        "0",
        "1e308",
        "1_0",
        "0x1",
        "",
        "5;6",
        "9" * 5000,
        "1e-400",
        "\xb2",
        "\uff11",
    ],
)
def test_a_timeout_is_a_number_of_seconds(server: RunningServer, value: str) -> None:
    headers = {"x-request-timeout": value.encode()}
    body = {"model": BASE, "prompt": "x", "max_tokens": 1}
    answer = server.http.post("/v1/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout")


def test_the_last_of_two_fields_of_one_name_counts_alone(server: RunningServer) -> None:
    """What is checked is what is used, whatever stands before it."""
    body = f'{{"model": "{BASE}", "prompt": "x", "n": 1, "n": 99}}'
    answer = server.post("/v1/completions", content=body.encode(), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    body = f'{{"model": "none", "model": "{BASE}", "prompt": "x", "n": 99, "n": 1}}'
    answer = server.post("/v1/completions", content=body.encode(), headers=JSON)
    assert (answer.status_code, len(answer.json()["choices"])) == (200, 1)


MIB = 1 << 20
MANY = MAX_JSON_PARTS + 1
BODIES: dict[str, tuple[str, str]] = {
    "empty lists": ("/v1/completions", '"prompt": [' + "[]," * MANY + "[]]"),
    "lists of one": ("/v1/completions", '"prompt": [' + "[1]," * MANY + "[1]]"),
    "empty objects": ("/v1/completions", '"prompt": "x", "metadata": [' + "{}," * MANY + "{}]"),
    "fields": ("/v1/completions", ",".join(f'"f{i}": 1' for i in range(MANY))),
    "deep": ("/v1/completions", '"prompt": ' + "[" * (MAX_JSON_DEPTH + 1) + "]" * 65),
    "very deep": ("/v1/completions", '"prompt": ' + "[" * MIB + "]" * MIB),
    "tokens": ("/v1/completions", '"prompt": [' + "1," * (2 * MIB - 100) + "1]"),
    "strings": ("/v1/completions", '"prompt": [' + '"x",' * (MIB - 100) + '"x"]'),
    "a text": ("/v1/completions", '"prompt": "' + "x" * (4 * MIB - 100) + '"'),
    "a name": ("/v1/completions", '"' + "x" * (4 * MIB - 100) + '": 1'),
    "a model": ("/v1/completions", '"prompt": "x", "model": "' + "x" * (4 * MIB - 100) + '"'),
    "messages": (CHAT, '"messages": [' + "{}," * MAX_MESSAGES + "{}]"),
    "parts": (
        CHAT,
        '"messages": [{"role": "user", "content": ['
        + '{"type": "text", "text": ""},' * 20_000
        + '{"type": "text", "text": ""}]}]',
    ),
    "tools": (
        CHAT,
        '"messages": [{"role": "user", "content": "x"}], "tools": ['
        + ",".join(f'{{"type": "function", "function": {{"name": "f{i}"}}}}' for i in range(129))
        + "]",
    ),
    "items": ("/v1/responses", '"input": [' + "{}," * MAX_MESSAGES + "{}]"),
    "choices": (
        "/v1/completions",
        '"prompt": "x", "structured_outputs": {"choice": [' + '"a",' * 100_000 + '"b"]}',
    ),
}


@pytest.mark.parametrize("what", BODIES)
def test_no_body_is_too_much(server: RunningServer, what: str) -> None:
    path, fields = BODIES[what]
    body = f'{{"model": "{BASE}", "max_tokens": 1, {fields}}}'.encode()
    answer = server.post(path, content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert len(answer.content) < 2000
    assert server.complete("x").status_code == 200


def test_no_body_is_unpacked(server: RunningServer) -> None:
    """1 GiB of spaces is 1 MiB of gzip: nothing here reads that."""
    packed = gzip.compress(b" " * (64 * MIB) + b"{}", 1)
    for encoding in ("gzip", "deflate", "br", "zstd", "x-gzip", "identity, gzip"):
        headers = {**JSON, "Content-Encoding": encoding}
        answer = server.post("/v1/completions", content=packed, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_ignored_names_cannot_become_headers(start_server: StartServer) -> None:
    names = [
        "a\r\nSet-Cookie: x=1",
        "b\0",
        "\u2028",
        "x" * 100_000,
        "é",
        '"',
        ",",
        *map(str, range(99)),
    ]
    with start_server(lenient_parameters=True) as server:
        answer = server.complete("x", **dict.fromkeys(names, 1))
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert len(answer.headers["x-ignored-params"]) < 4096
        assert answer.headers["x-ignored-params"].isascii()
