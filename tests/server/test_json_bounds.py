"""Deep JSON, and JSON of very many parts: refused, never a crash, whichever field has it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.core.errors import MotetError
from motet.server.json_bounds import (
    MAX_JSON_DEPTH,
    MAX_JSON_PARTS,
    require_few_parts,
    require_shallow,
    structure_of,
)
from tests.server.running_server import BASE, RunningServer

JSON = {"Content-Type": "application/json"}
VALUES = st.recursive(
    st.integers() | st.text(alphabet='[]{}:"\\a\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(VALUES, st.integers(0, MAX_JSON_DEPTH + 3))
def test_the_bound_is_exact(value: object, num_wrappers: int) -> None:
    for _ in range(num_wrappers):
        value = [value]
    structure = structure_of(json.dumps(value).encode())
    if depth_of(value) <= MAX_JSON_DEPTH:
        require_shallow(structure)
    else:
        with pytest.raises(MotetError, match="deep"):
            require_shallow(structure)


def num_parts_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(num_parts_of, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(num_parts_of, value))
    return 0


@given(VALUES)
def test_what_stands_in_strings_is_no_part(value: object) -> None:
    structure = structure_of(json.dumps(value, ensure_ascii=False).encode())
    assert structure.count(b"[") + structure.count(b":") == num_parts_of(value)
    assert structure.count(b"[") == structure.count(b"]")


@pytest.mark.parametrize("item", ["[]", "{}", '"a":1'])
def test_the_number_of_parts_is_bounded(item: str) -> None:
    opened, closed = ("{", "}") if ":" in item else ("[", "]")
    for num_more, fits in ((0, True), (1, False)):
        body = opened + ",".join([item] * (MAX_JSON_PARTS - 1 + num_more)) + closed
        if fits:
            require_few_parts(structure_of(body.encode()))
        else:
            with pytest.raises(MotetError, match="more than"):
                require_few_parts(structure_of(body.encode()))


def test_long_texts_and_long_lists_of_tokens_are_few_parts(server: RunningServer) -> None:
    for prompt in ('{"a":[]}' * 200_000, [1] * 1_000_000):
        response = server.complete(prompt)
        assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("depth", [3, 62, 63, 64, 500, 1022, 1023, 1024, 1025, 100_000, 400_000])
@pytest.mark.parametrize("field", ["prompt", "stop", "messages", "zzz", "tools"])
def test_deep_bodies_are_bad_requests(server: RunningServer, field: str, depth: int) -> None:
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        deep = opened * depth + "1" + closed * depth
        prompt = "" if field == "prompt" else '"prompt": "x", '
        content = f'{{"model": "{BASE}", {prompt}"{field}": {deep}}}'
        response = server.post("/v1/completions", content=content, headers=JSON)
        assert response.status_code == 400, response.text
        assert len(response.content) < 2000
        assert response.json()["error"]["code"]
