"""Function calls through /v1/responses, over an engine with a script."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import ResponseFunctionToolCall

from tests.server.responses.schemas import check_events, check_response
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.tools.test_tool_calls import ENGINE, KOELN, TOOLS, TWO, told_to_say

FLAT_TOOLS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]


@pytest.fixture(scope="module")
def scripted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("tools") / "engine.jsonl"
    with running_server(model_dir, log, ENGINE) as server:
        yield server


@pytest.mark.parametrize("is_stream", [False, True])
def test_calls_are_items_and_their_answers_too(scripted: RunningServer, is_stream: bool) -> None:
    """Two parallel calls after some text; then a second turn with what the functions said."""
    client = OpenAI(base_url=f"{scripted.url}/v1", api_key="none", max_retries=0)

    def ask(items: list[Any]) -> Any:
        params = {"model": BASE, "input": items, "tools": FLAT_TOOLS}
        if not is_stream:
            return client.responses.create(**params)
        with client.responses.stream(**params) as events:
            return events.get_final_response()

    response = ask([told_to_say(TWO)])
    assert response.output_text.strip() == "Let me see."
    calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [("weather", KOELN), ("now", "{}")]
    assert response.status == "completed"

    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        for call in calls
    ]
    after = ask([told_to_say(TWO), *response.output, *outputs, told_to_say("It rains.")])
    assert after.output_text == "It rains."
    assert [item.type for item in after.output] == ["message"]


def test_calls_are_as_the_schema_says(scripted: RunningServer) -> None:
    body = {"model": BASE, "input": [told_to_say(TWO)], "tools": FLAT_TOOLS}
    check_response(scripted.post("/v1/responses", body).content)
    events = check_events(scripted.post("/v1/responses", {**body, "stream": True}).text)
    done = [each for each in events if each["type"] == "response.function_call_arguments.done"]
    assert [each["arguments"] for each in done] == [KOELN, "{}"]


def test_a_call_is_whole_though_the_answer_was_cut_off(scripted: RunningServer) -> None:
    num_tokens = len(TWO.encode()) - 30  # within the second call
    body = {"model": BASE, "input": [told_to_say(TWO)], "tools": FLAT_TOOLS}
    response = scripted.post("/v1/responses", {**body, "max_output_tokens": num_tokens})
    told = check_response(response.content)
    assert told["status"] == "incomplete"
    assert [(each["type"], each["status"]) for each in told["output"]] == [
        ("message", "incomplete"),
        ("function_call", "completed"),
    ]


def test_a_conversation_with_calls_is_counted_as_it_is_asked(scripted: RunningServer) -> None:
    body = {"model": BASE, "messages": [told_to_say("x")], "tools": TOOLS}
    count = scripted.post("/tokenize", body).json()["count"]
    answer = scripted.post("/v1/chat/completions", body).json()
    assert answer["usage"]["prompt_tokens"] == count


def test_a_chat_says_what_is_wrong_in_the_words_of_a_response(scripted: RunningServer) -> None:
    twice = [FLAT_TOOLS[0], FLAT_TOOLS[0]]
    unasked = [{"type": "function_call_output", "call_id": "call_x", "output": "rain"}]
    for body, param in (({"tools": twice}, "tools"), ({"input": unasked}, "input")):
        response = scripted.post("/v1/responses", {"model": BASE, "input": "hello", **body})
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith(param), response.text
