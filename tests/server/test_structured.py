"""Fields that constrain an answer, from HTTP to what the engine is sent; attacks through them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from openai import LengthFinishReasonError, OpenAI
from pydantic import BaseModel

from motet.core.errors import MotetError
from motet.engine.grammar import compile_grammar, load_tokenizer
from motet.server.structured import (
    MAX_SCHEMA_DEPTH,
    ResponseFormat,
    StructuredOutputs,
    constraint_of,
    schema_constraint,
)
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "hi"}]
# It compiles for minutes, whatever limits llguidance is given.
HANGS = {"type": "integer", "multipleOf": 99999989}


def json_schema(schema: object, **fields: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


def last_grammar(server: RunningServer) -> str | None:
    grammar = server.events("AddRequest")[-1]["sampling"]["grammar"]
    assert grammar is None or isinstance(grammar, str)
    return grammar


def allows(server: RunningServer, text: str) -> bool:
    """Whether the grammar that the engine was sent last takes this as a whole answer."""
    grammar = last_grammar(server)
    assert grammar is not None
    config = server.events("Started")[-1]["config"]
    tokenizer = load_tokenizer(
        Path(config["model"]) / "tokenizer.json", 259, config["eos_token_ids"]
    )
    matcher: LLMatcher = compile_grammar(tokenizer, grammar).deep_copy()
    token_ids = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


def post(server: RunningServer, endpoint: str, **fields: object) -> Any:
    if endpoint == "chat":
        body = {"model": BASE, "messages": MESSAGES, "max_tokens": 4, **fields}
        return server.post("/v1/chat/completions", body)
    return server.complete(max_tokens=4, **fields)


@pytest.fixture(params=["chat", "completions"])
def endpoint(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"response_format": {"type": "json_object"}}, '{"b": [1]}', "[1]"),
        ({"response_format": json_schema(SCHEMA, strict=True)}, '{"a": 1}', '{"a": "1"}'),
        ({"response_format": json_schema(SCHEMA, strict=False)}, '{"a":1}', '{"b": 1}'),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "{}", "1"),
        ({"structured_outputs": {"json": SCHEMA}}, '{"a": -7}', "{}"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, '{"a": 0}', "{}"),
        ({"structured_outputs": {"json_object": True}}, "{}", "null"),
        ({"structured_outputs": {"regex": "[0-9]+b?"}}, "12b", "b"),
        ({"structured_outputs": {"choice": ["yes", 'n"o\n', "é/\\"]}}, 'n"o\n', "n"),
        ({"structured_outputs": {"choice": ["yes", 'n"o\n', "é/\\"]}}, "é/\\", "é/"),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, "b", "ab"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, "b", "c"),
    ],
)
def test_each_constraint_reaches_the_engine(
    server: RunningServer, endpoint: str, fields: dict[str, Any], good: str, bad: str
) -> None:
    answer = post(server, endpoint, **fields)
    assert answer.status_code == 200, answer.text
    assert allows(server, good)
    assert not allows(server, bad)


def test_json_is_on_one_line_so_no_answer_is_endless_whitespace(server: RunningServer) -> None:
    assert server.complete(response_format=json_schema(SCHEMA)).status_code == 200
    for text in ('{"a":  1}', '{ "a": 1}', '{"a": 1 }', '{\n"a": 1}', '{"a": 1}\n'):
        assert not allows(server, text), text


@pytest.mark.parametrize(
    "fields", [{}, {"response_format": {"type": "text"}}, {"structured_outputs": None}]
)
def test_free_requests_have_no_grammar(
    server: RunningServer, endpoint: str, fields: dict[str, Any]
) -> None:
    assert post(server, endpoint, **fields).status_code == 200
    assert last_grammar(server) is None


def test_the_engine_is_told_the_end_of_text_tokens(server: RunningServer) -> None:
    assert server.events("Started")[-1]["config"]["eos_token_ids"] == [257, 258]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "only if"),
    (
        {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
        "response_format.json_schema",
        "only if",
    ),
    (
        {"response_format": json_schema(SCHEMA, name="a b")},
        "response_format.json_schema.name",
        "pattern",
    ),
    ({"response_format": json_schema([])}, "response_format.json_schema.schema", "dictionary"),
    ({"response_format": json_schema({"type": 5})}, "response_format.json_schema.schema", "type"),
    (
        {"response_format": json_schema({"not": {}})},
        "response_format.json_schema.schema",
        "Unimplemented",
    ),
    (
        # No schema may relax what is kept of it.
        {"response_format": json_schema({"not": {}, "x-guidance": {"lenient": True}})},
        "response_format.json_schema.schema",
        "Unimplemented",
    ),
    (
        {"response_format": json_schema({"$ref": "http://127.0.0.1:9/x.json"})},
        "response_format.json_schema.schema",
        "retriev",
    ),
    ({"response_format": json_schema({"$ref": "#"})}, "response_format.json_schema.schema", ""),
    (
        {"response_format": json_schema({"properties": [1]})},
        "response_format.json_schema.schema",
        "object",
    ),
    (
        {"response_format": json_schema({"required": [1]})},
        "response_format.json_schema.schema",
        "",
    ),
    (
        {"response_format": json_schema({"enum": list(range(1001))})},
        "response_format.json_schema.schema",
        "1000",
    ),
    (
        {"response_format": json_schema({"items": [{"enum": list(range(999))}] * 6})},
        "response_format.json_schema.schema",
        "5000",
    ),
    (
        {"response_format": json_schema({"description": "x" * 65536})},
        "response_format.json_schema.schema",
        "65536",
    ),
    ({"response_format": json_schema(deep(32))}, "response_format.json_schema.schema", "32"),
    ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"regex": "a", "json_object": True}}, "structured_outputs", "exactly"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object", "True"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not JSON"),
    ({"structured_outputs": {"json": '{"minimum": NaN}'}}, "structured_outputs.json", "not JSON"),
    ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json", "object"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "regex"),
    ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex", "look-a"),
    ({"structured_outputs": {"regex": "a" * 1025}}, "structured_outputs.regex", "1024"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "1"),
    ({"structured_outputs": {"choice": ["a"] * 1001}}, "structured_outputs.choice", "1000"),
    ({"structured_outputs": {"choice": ["a" * 700] * 100}}, "structured_outputs.choice", "65536"),
    ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", "unknown name"),
    ({"structured_outputs": {"grammar": "root ::= ("}}, "structured_outputs.grammar", "GBNF"),
    ({"structured_outputs": {"grammar": "a" * 65537}}, "structured_outputs.grammar", "65536"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "structured_outputs",
        "give one",
    ),
]


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED)
def test_what_is_wrong_is_said_with_its_field(
    server: RunningServer, fields: dict[str, Any], param: str, says: str
) -> None:
    answer = server.complete(**fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["code"] in ("invalid_value", "invalid_type")
    assert says in error["message"]
    assert len(error["message"]) < 700


@pytest.mark.parametrize("name", ["json", "regex", "choice", "grammar"])
def test_old_names_are_refused_with_the_new_one(
    server: RunningServer, endpoint: str, name: str
) -> None:
    error = post(server, endpoint, **{f"guided_{name}": "x"}).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", f"guided_{name}")
    assert f"structured_outputs.{name}" in error["message"]


def test_unknown_fields_inside_are_refused(server: RunningServer) -> None:
    fields = {"regex": "a", "whitespace_pattern": "b"}
    error = server.complete(structured_outputs=fields).json()["error"]
    assert error["param"] == "structured_outputs.whitespace_pattern"
    assert error["code"] == "unknown_parameter"


def test_a_model_that_does_not_exist_comes_first(server: RunningServer) -> None:
    answer = server.complete(model="nope", structured_outputs={"regex": "("})
    assert answer.status_code == 404


def test_openai_parses_into_a_pydantic_model(server: RunningServer) -> None:
    """Only that the schema which openai-python makes is taken: the fake engine follows nothing."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    class Step(BaseModel):
        explanation: str
        output: float | None

    class Steps(BaseModel):
        steps: list[Step]
        final: int

    with pytest.raises(LengthFinishReasonError):
        client.chat.completions.parse(
            model=BASE,
            messages=MESSAGES,  # type: ignore[arg-type]
            response_format=Steps,
            max_tokens=4,
        )
    assert allows(server, '{"steps": [{"explanation": "x", "output": null}], "final": 3}')


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("structured_outputs", {"regex": "((a+)+)+b"}),
        ("structured_outputs", {"regex": "(a|b|ab)*c"}),
        ("structured_outputs", {"choice": [f"value {i}" for i in range(1000)]}),
        ("response_format", json_schema({"enum": [f"value {i}" for i in range(1000)]})),
        ("response_format", json_schema({"type": "string", "pattern": "^((a+)+)+$"})),
        ("response_format", json_schema({"items": {"$ref": "#"}, "type": "array"})),
    ],
)
def test_what_only_looks_like_a_bomb_is_served(
    server: RunningServer, field: str, value: object
) -> None:
    assert server.complete(**{field: value}).status_code == 200


BOMBS = [
    {"regex": "(a{1000}){1000}"},
    {"regex": "(((a{1,999}b){1,999}c){1,999}d){1,999}"},
    {"regex": "(" * 500 + "a" + ")" * 500},
    {"grammar": "start: " + "(" * 30000 + '"a"' + ")" * 30000},
    {"grammar": "root ::= " + "(" * 30000 + '"a"' + ")" * 30000},
    {"grammar": "start: r0\n" + "".join(f'r{i}: r{i + 1} "x"\n' for i in range(3000))},
    {
        "grammar": "start: r0\n"
        + "".join(f'r{i}: r{i + 1} "x"\n' for i in range(3000))
        + 'r3000: "a"'
    },
    {"grammar": "start: R0\n" + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(40))},
    {
        "grammar": "start: R0\n"
        + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(40))
        + 'R40: "a"'
    },
    {"json": {"allOf": [{"$ref": "#"}]}},
    {"json": {"type": "string", "minLength": 10**18}},
    {"json": {"type": "array", "minItems": 10**18}},
    {"json": {"type": "integer", "minimum": -1e308, "maximum": 1e308}},
    {"json": HANGS},
]


@pytest.mark.slow
def test_bombs_harm_nobody(server: RunningServer) -> None:
    """Each is refused or harmless; what comes after it is served."""
    for bomb in BOMBS:
        answer = server.complete(structured_outputs=bomb)
        assert answer.status_code in (200, 400), answer.text
        after = server.complete(structured_outputs={"regex": f"[a-z]{{{BOMBS.index(bomb) + 1}}}"})
        assert after.status_code == 200, after.text
    assert server.events("Started")[-1]["pid"] == server.events("Started")[0]["pid"]


def test_others_are_served_while_a_bomb_is_compiled(server: RunningServer) -> None:
    done = threading.Event()
    answers: list[Any] = []

    def attack() -> None:
        answers.append(server.complete(response_format=json_schema(HANGS)))
        done.set()

    thread = threading.Thread(target=attack)
    thread.start()
    for _ in range(20):
        assert server.get("/live").status_code == 200
        assert server.complete().status_code == 200
    assert not done.is_set(), "the bomb was compiled too soon to show anything"
    thread.join(30)
    error = answers[0].json()["error"]
    assert "longer than 2 s" in error["message"]
    assert error["param"] == "response_format.json_schema.schema"


def test_a_hundred_grammars_at_once(start_server: StartServer) -> None:
    with start_server() as server, ThreadPoolExecutor(100) as threads:

        def ask(index: int) -> int:
            schema = {"enum": [f"{index}-{value}" for value in range(300)]}
            return server.complete(structured_outputs={"json": schema}).status_code

        asked = [threads.submit(ask, index) for index in range(100)]
        while not all(each.done() for each in asked):
            assert server.get("/live").status_code == 200
        assert {each.result() for each in asked} == {200}


NESTED = [
    "prompt",
    "stop",
    "response_format",
    "structured_outputs",
    "logit_bias",
    "seed",
    "user",
    "model",
    "unheard_of",
    "tools",
    "stream_options",
]


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize(("opening", "inner", "closing"), [("[", "", "]"), ('{"a":', "1", "}")])
def test_no_nesting_is_unforeseen(
    server: RunningServer, name: str, opening: str, inner: str, closing: str
) -> None:
    for depth in (200, 900, 1020, 100_000):
        value = opening * depth + inner + closing * depth
        fields = {"model": f'"{BASE}"', "prompt": '"a"', "max_tokens": "1", name: value}
        body = "{" + ",".join(f'"{key}": {text}' for key, text in fields.items()) + "}"
        headers = {"content-type": "application/json"}
        answer = server.post("/v1/completions", content=body.encode(), headers=headers)
        assert answer.status_code == 400 or (name == "user" and answer.status_code == 200)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    schema=st.dictionaries(
        st.sampled_from(["enum", "items", "properties", "x"]),
        st.recursive(
            st.none() | st.integers(-(2**60), 2**60) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["enum", "a"]), inner, max_size=3)
            ),
        ),
    )
)
def test_a_schema_is_passed_on_as_it_is(schema: dict[str, Any]) -> None:
    constraint = schema_constraint(schema, "p")
    assert json.loads(constraint.text) == schema
    assert constraint.param == "p"


@given(levels=st.integers(0, 400), in_lists=st.booleans())
def test_the_cap_on_nesting_is_exact(levels: int, in_lists: bool) -> None:
    inner: Any = []
    for _ in range(levels):
        inner = [inner] if in_lists else {"a": inner}
    depth = levels + 2
    schema = {"enum": inner}
    if depth <= MAX_SCHEMA_DEPTH:
        assert constraint_of(None, StructuredOutputs(json=schema)) is not None
    else:
        with pytest.raises(MotetError, match=str(MAX_SCHEMA_DEPTH)):
            constraint_of(None, StructuredOutputs(json=schema))


def test_text_format_is_no_constraint() -> None:
    assert constraint_of(ResponseFormat(type="text"), None) is None
    both = constraint_of(ResponseFormat(type="text"), StructuredOutputs(regex="a"))
    assert both is not None
