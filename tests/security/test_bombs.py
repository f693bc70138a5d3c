"""Schemas, regexes and grammars that take for ever, fill the memory or overflow a stack.

Each is sent to a real engine, wherever a request may hold one. It is refused or served; the
server lives and serves others meanwhile, and the engine is the same process afterwards.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil
import pytest

from tests.security.real_server import ALICE, BOB, RealServer
from tests.server.some_keys import bearer

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "x"}]


def deep(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(levels: int) -> Any:
    """2 ** levels, if each reference is written out."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "string", "maxLength": 3}}
    for i in range(levels):
        two = {"$ref": f"#/$defs/d{i + 1}"}
        properties = {"a": two, "b": two}
        definitions[f"d{i}"] = {
            "type": "object",
            "properties": properties,
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    return {"$ref": "#/$defs/d0", "$defs": definitions}


SCHEMAS: dict[str, Any] = {
    "deep": deep(15),
    "too deep": deep(40),
    "refers to itself": {"$ref": "#"},
    "refers in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "all of itself": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "refers to nothing": {"$ref": "#/$defs/none"},
    "refers to a file": {"$ref": "file:///etc/passwd"},
    "refers to a page": {"$ref": "http://127.0.0.1:1/schema.json"},
    "doubles 12 times": doubling(12),
    "pattern repeats": {"type": "string", "pattern": "^(a{1000}){1000}$"},
    "pattern backtracks": {"type": "string", "pattern": r"^(\w+\s?)*$"},
    "pattern looks ahead": {"type": "string", "pattern": "^(?=.*a)(?=.*b).*$"},
    "pattern is broken": {"type": "string", "pattern": "[["},
    "long strings": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "long lists": {"type": "array", "minItems": 10**9, "items": {}},
    "many values": {"enum": list(range(1001))},
    "many choices": {"anyOf": [{"type": "string", "pattern": f"^a{i}*$"} for i in range(300)]},
    "cross products": {
        "allOf": [{"anyOf": [{"minLength": i}, {"maxLength": i}]} for i in range(24)]
    },
    "large numbers": {"type": "integer", "minimum": 10**300, "maximum": 10**301},
    "small steps": {"type": "number", "multipleOf": 1e-300},
    "a name of its own": {
        "x-guidance": {"whitespace_pattern": "(a{1000}){1000}"},
        "type": "object",
    },
    "lark in a schema": {"type": "string", "x-lark": "start: start"},
    "no schema": {"type": "evil"},
    "not of everything": {"not": {}},
}
GRAMMARS: dict[str, Any] = {
    "left recursion": {"grammar": 'start: start "a" | start start | "a"'},
    "empty recursion": {"grammar": 'start: a\na: b | ""\nb: a | ""'},
    "ambiguous": {"grammar": "start: s\ns: s s s | s s | /a*/"},
    "doubles": {
        "grammar": "start: R0\n"
        + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(30))
        + 'R30: "a"'
    },
    "deep": {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "imports": {"grammar": "%import common.WORD\nstart: WORD\n%import /etc/passwd (X)"},
    "regex in it": {"grammar": "start: /(a{1000}){1000}/"},
    "repeat": {"grammar": 'start: "a"{1000000000}'},
    "gbnf": {"grammar": 'root ::= root root | ""'},
    "json in it": {"grammar": 'start: %json {"$ref": "#"}'},
    "regex nests": {"regex": "(" * 300 + "a" + ")" * 300},
    "regex repeats": {"regex": "((a{1,99}){1,99}){1,99}"},
    "regex of unicode": {"regex": r"\p{L}{1000}\X?"},
    "regex of nothing": {"regex": "a{0}"},
    "choice of nothing": {"choice": [""]},
    "nul": {"regex": "\0"},
}


@pytest.fixture
def unharmed(real: RealServer) -> Any:
    """Check afterwards that the engine is the same process, and works."""
    before = engine_pid(real)
    yield
    assert engine_pid(real) == before
    answer = real.complete(BOB, structured_outputs={"regex": "[ab]{3}"}, max_tokens=8)
    assert answer.status_code == 200, answer.text
    assert "Traceback" not in real.log


def engine_pid(real: RealServer) -> int:
    children = psutil.Process(real.serving.process.pid).children()
    [engine] = [child.pid for child in children if "motet.engine.process" in child.cmdline()]
    return engine


def settled(answer: httpx2.Response) -> bool:
    """Served, refused with a reason, or ended by its own grammar."""
    assert answer.status_code in (200, 400), answer.text
    return answer.status_code == 200 or bool(answer.json()["error"]["message"])


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("what", SCHEMAS)
def test_schemas(real: RealServer, what: str) -> None:
    schema = SCHEMAS[what]
    named = {"name": "x", "schema": schema, "strict": True}
    function = {
        "name": "f",
        "strict": True,
        "parameters": {"type": "object", "properties": {"a": schema}},
    }
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": "x", "structured_outputs": {"json": schema}}),
        (
            CHAT,
            {
                "messages": MESSAGES,
                "response_format": {"type": "json_schema", "json_schema": named},
            },
        ),
        (
            CHAT,
            {
                "messages": MESSAGES,
                "tools": [{"type": "function", "function": function}],
                "tool_choice": "required",
            },
        ),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", **named}}}),
    ]
    for path, body in bodies:
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        sent = {"model": "tiny", limit: 4, **body}
        assert settled(real.http.post(path, json=sent, headers=bearer(ALICE))), path


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("what", GRAMMARS)
def test_grammars_and_regexes(real: RealServer, what: str) -> None:
    assert settled(real.complete(ALICE, structured_outputs=GRAMMARS[what], max_tokens=8))


@pytest.mark.usefixtures("unharmed")
def test_many_bombs_at_once_hold_nobody_else_up(real: RealServer) -> None:
    stop = threading.Event()

    def attack(i: int) -> int:
        if stop.is_set():
            return 0
        bomb = {"regex": f"((x{{1,{90 + i}}}){{1,99}}){{1,99}}"}
        return real.complete(ALICE, structured_outputs=bomb).status_code

    with ThreadPoolExecutor(8) as pool:
        attacks = [pool.submit(attack, i) for i in range(16)]
        for _ in range(10):
            assert real.http.get("/live").status_code == 200
            assert real.complete(BOB).status_code == 200
        stop.set()
        assert {each.result() for each in attacks} <= {0, 200, 400, 503}
