"""Deep JSON: refused, never a crash, whichever field has it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.core.errors import MotetError
from motet.server.json_depth import MAX_JSON_DEPTH, require_shallow
from tests.server.running_server import BASE, RunningServer

JSON = {"Content-Type": "application/json"}
VALUES = st.recursive(
    st.integers() | st.text(alphabet='[]{}"a', max_size=5),
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
    body = json.dumps(value).encode()
    if depth_of(value) <= MAX_JSON_DEPTH:
        require_shallow(body, value)
    else:
        with pytest.raises(MotetError, match="deep"):
            require_shallow(body, value)


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
