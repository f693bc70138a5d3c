"""What the prefix cache saved, as requests are told, and whose it is."""

import itertools
import json
from typing import Any

import pytest

from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer

KEYS = {"api_key": "one-secret", "admin_key": "other-secret"}


def usage_of(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = server.post(path, {"model": BASE, "max_tokens": 2, **body})
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        usage: dict[str, Any] = response.json()["usage"]
        return usage
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    last: dict[str, Any] = json.loads(events[-2])["usage"]
    return last


def streamed(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("form", [dict, streamed])
def test_cached_tokens_are_told_whole_and_streamed(start_server: StartServer, form: Any) -> None:
    completion = form({"prompt": "abcdefgh"})
    chat = form({"messages": [{"role": "user", "content": "hello"}]})
    with start_server() as server:
        for path, body in (("/v1/completions", completion), ("/v1/chat/completions", chat)):
            first, second = (usage_of(server, path, body) for _ in range(2))
            num_tokens = second["prompt_tokens"]
            assert first["prompt_tokens_details"] == {"cached_tokens": 0}
            # All but the last, which is always computed.
            assert second["prompt_tokens_details"] == {"cached_tokens": num_tokens - 1}
            assert second["total_tokens"] == num_tokens + 2


def test_a_prompt_counts_once_however_many_choices_it_has(start_server: StartServer) -> None:
    with start_server() as server:
        # Of three choices only the first finds nothing; the prompt was computed then.
        usage = usage_of(server, "/v1/completions", {"prompt": "abcdefgh", "n": 3})
        assert usage["prompt_tokens"] == 8
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
        usage = usage_of(server, "/v1/completions", {"prompt": "abcdefgh", "n": 3})
        assert usage["prompt_tokens_details"] == {"cached_tokens": 7}


def test_several_prompts_are_summed(start_server: StartServer) -> None:
    with start_server() as server:
        prompts = ["abcdefgh", "abcdxxxx", "abc"]  # 0, 4 and 2 tokens in common with the last
        body = {"prompt": prompts, "n": 1}
        for form in (dict, streamed):
            # The last one is the first of the next request's to compare with: 3 of them.
            expected = 6 if form is dict else 3 + 6
            usage = usage_of(server, "/v1/completions", form(body))
            assert usage["prompt_tokens"] == 19
            assert usage["prompt_tokens_details"] == {"cached_tokens": expected}


def test_without_a_cache_nothing_is_cached(start_server: StartServer) -> None:
    with start_server(config={"prefix_cache": False}) as server:
        for _ in range(2):
            usage = usage_of(server, "/v1/completions", {"prompt": "abcdefgh"})
            assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def tenants(server: RunningServer, keys: tuple[str | None, ...]) -> list[str | None]:
    for key in keys:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = {"model": BASE, "prompt": "abc", "max_tokens": 1}
        assert server.post("/v1/completions", body, headers=headers).status_code == 200
    return [event["prefix_scope"] for event in server.events("AddRequest")]


def test_each_key_is_a_tenant_and_is_not_told_to_the_engine(start_server: StartServer) -> None:
    with start_server(**KEYS) as server:
        first, second, third = tenants(server, ("one-secret", "other-secret", "one-secret"))
        assert first == third
        assert first != second
        assert None not in (first, second)
        assert not any(key in server.log.read_text() for key in KEYS.values())


def test_tenants_share_if_the_operator_says_so(start_server: StartServer) -> None:
    with start_server(share_prefix_cache=True, **KEYS) as server:
        assert tenants(server, ("one-secret", "other-secret")) == [None, None]


def test_without_keys_there_is_one_tenant(start_server: StartServer) -> None:
    with start_server() as server:
        assert tenants(server, (None, None)) == [None, None]


def test_a_tenant_learns_nothing_from_the_cache_of_another(start_server: StartServer) -> None:
    with start_server(**KEYS) as server:
        cached = []
        for key in itertools.chain(KEYS.values(), KEYS.values()):
            response = server.post(
                "/v1/completions",
                {"model": BASE, "prompt": "abcdefgh"},
                headers={"Authorization": f"Bearer {key}"},
            )
            cached.append(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 0, 7, 7]
