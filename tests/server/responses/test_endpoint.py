"""/v1/responses over HTTP and through OpenAI's own client."""

from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import FAIL_TOKEN
from tests.server.responses.schemas import check_events, check_response
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.tiny_model import END_OF_TURN


@pytest.fixture(scope="module")
def client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def respond(server: RunningServer, **body: object) -> dict[str, Any]:
    response = server.post("/v1/responses", {"model": BASE, "input": "hello", **body})
    assert response.status_code == 200, response.text
    return check_response(response.content)


def stream(server: RunningServer, **body: object) -> list[dict[str, Any]]:
    body = {"model": BASE, "input": "hello", "stream": True, **body}
    response = server.post("/v1/responses", body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return check_events(response.text)


def chat_text(server: RunningServer, messages: list[dict[str, Any]], **body: object) -> str:
    body = {"model": BASE, "messages": messages, **body}
    text: str = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("model", [BASE, "red"])
def test_a_response_says_what_a_chat_says(server: RunningServer, model: str) -> None:
    response = respond(server, model=model, max_output_tokens=12, user="u", metadata={"a": "b"})
    user = {"role": "user", "content": "hello"}
    text = chat_text(server, [user], model=model, max_tokens=12)
    (item,) = response["output"]
    assert item["content"] == [
        {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    ]
    assert response["model"] == model
    assert response["id"].startswith("resp_")
    assert item["id"].startswith("msg_")
    assert (response["user"], response["metadata"]) == ("u", {"a": "b"})
    assert (response["store"], response["max_output_tokens"]) == (False, 12)
    assert response["usage"].pop("input_tokens_details").keys() == {
        "cached_tokens",
        "cache_write_tokens",
    }
    assert response["usage"] == {
        "input_tokens": 24,
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 36,
    }


def test_one_that_was_cut_short_is_incomplete(server: RunningServer) -> None:
    response = respond(server, max_output_tokens=3)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][0]["status"] == "incomplete"


def test_one_that_came_to_its_end_is_complete(server: RunningServer) -> None:
    response = respond(server, input=f"hello{END_OF_TURN}")
    assert response["status"] == response["output"][0]["status"] == "completed"
    assert response["incomplete_details"] is None
    assert response["completed_at"] >= response["created_at"]


@pytest.mark.parametrize(
    ("text", "status"), [("hello", "incomplete"), (f"hello{END_OF_TURN}", "completed")]
)
def test_a_stream_tells_the_whole_response_in_pieces(
    server: RunningServer, text: str, status: str
) -> None:
    whole = respond(server, input=text, max_output_tokens=20)
    events = stream(server, input=text, max_output_tokens=20)
    kinds = [event["type"] for event in events]
    num_deltas = kinds.count("response.output_text.delta")
    assert num_deltas > 3
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * num_deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{status}",
    ]
    last = events[-1]["response"]
    assert last["status"] == status
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    deltas = "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
    assert deltas == whole["output"][0]["content"][0]["text"]
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    places = {(each["item_id"], each["output_index"]) for each in events if "item_id" in each}
    assert places == {(last["output"][0]["id"], 0)}


def test_an_answer_without_text_is_a_message_without_text(server: RunningServer) -> None:
    """All of it is a token that has no text."""
    whole = respond(server, max_output_tokens=1)
    events = stream(server, max_output_tokens=1)
    for response in (whole, events[-1]["response"]):
        (item,) = response["output"]
        assert item["content"][0]["text"] == ""


def test_items_make_the_chat_that_they_tell(server: RunningServer) -> None:
    """Sent as a client would that keeps the conversation: with what the server answered."""
    before = respond(server, input=f"hello{END_OF_TURN}")
    said = before["output"][0]["content"][0]["text"]
    respond(
        server,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "hello"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
            *before["output"],
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "and"},
                    {"type": "input_text", "text": "now?"},
                ],
            },
        ],
        max_output_tokens=1,
    )
    as_items = server.events("AddRequest")[-1]["prompt_token_ids"]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "and\nnow?"},
    ]
    chat_text(server, messages, max_tokens=1)
    assert as_items == server.events("AddRequest")[-1]["prompt_token_ids"]


def test_sampling_parameters_reach_the_engine(server: RunningServer) -> None:
    respond(server, max_output_tokens=2, temperature=0.25, top_p=0.5)
    sampling = server.events("AddRequest")[-1]["sampling"]
    assert (sampling["max_tokens"], sampling["temperature"], sampling["top_p"]) == (2, 0.25, 0.5)


@pytest.mark.parametrize(
    "harmless",
    [
        {"store": False, "background": False, "truncation": "disabled", "include": []},
        {"store": None, "previous_response_id": None, "conversation": None, "text": None},
        {"reasoning": {"effort": None, "summary": "auto"}, "service_tier": "auto"},
        {"include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}, "top_logprobs": 0},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "max_tool_calls": 1},
        {"safety_identifier": "s", "reasoning": {}},
    ],
)
def test_what_does_nothing_is_accepted(server: RunningServer, harmless: dict[str, object]) -> None:
    assert respond(server, max_output_tokens=1, **harmless)["store"] is False


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        ({"store": True}, "unsupported_parameter", "store", "keeps no responses"),
        (
            {"previous_response_id": "resp_1"},
            "unsupported_parameter",
            "previous_response_id",
            "whole conversation",
        ),
        ({"conversation": "c"}, "unsupported_parameter", "conversation", "whole conversation"),
        ({"background": True}, "unsupported_parameter", "background", "stream"),
        ({"background": 0}, "unsupported_parameter", "background", "stream"),
        (
            {"include": ["message.output_text.logprobs"]},
            "unsupported_parameter",
            "include",
            "nothing",
        ),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation", "never cut"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt", "keeps no prompts"),
        ({"reasoning": {"effort": "high"}}, "invalid_value", "reasoning.effort", "none"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools[0]", "built-in"),
        ({"tools": 5}, "invalid_type", "tools", "list"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice", "no 'tools'"),
        ({"tool_choice": {"type": "file_search"}}, "invalid_value", "tool_choice", "built-in"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "invalid_value",
            "input[0].content[0]",
            "text model",
        ),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "invalid_value", "input[0]", "stored"),
        ({"input": [{"type": "computer_call"}]}, "invalid_value", "input[0]", "function_call"),
        ({"input": [{"type": {"{x}": 1}}]}, "invalid_value", "input[0]", "function_call"),
        ({"input": [7]}, "invalid_value", "input[0]", "message"),
        ({"input": []}, "invalid_value", "input", "at least 1"),
        ({"input": None}, "missing_required_parameter", "input", "input"),
        ({"input": 7}, "invalid_type", "input", "list"),
        ({"input": [{"role": "tool", "content": ""}]}, "invalid_value", "input[0].role", "user"),
        (
            {"input": [{"role": "user", "content": []}]},
            "invalid_value",
            "input[0].content",
            "at least 1",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
            "missing_required_parameter",
            "input[0].arguments",
            "arguments",
        ),
        ({"messages": []}, "unknown_parameter", "messages", "'input'"),
        ({"max_tokens": 5}, "unknown_parameter", "max_tokens", "'max_output_tokens'"),
        ({"temprature": 1}, "unknown_parameter", "temprature", "'temperature'"),
        ({"xyzzy": 1}, "unknown_parameter", "xyzzy", "xyzzy"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens", "1"),
        ({"max_output_tokens": True}, "invalid_type", "max_output_tokens", "integer"),
        ({"temperature": 2.5}, "invalid_value", "temperature", "2"),
        ({"top_p": 0}, "invalid_value", "top_p", "0"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k", "string"),
        ({"metadata": {str(key): "" for key in range(17)}}, "invalid_value", "metadata", "16"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type", "text"),
        ({"text": {"format": {"type": "json_schema"}}}, "invalid_value", "text.format", "schema"),
        ({"stream_options": {}}, "invalid_value", "stream_options", "stream"),
        ({"max_output_tokens": 600}, "context_length_exceeded", "input", "512"),
        (
            {"input": [{"role": "system", "content": "x"}], "instructions": "y"},
            "invalid_value",
            "input",
            "system message must come first",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    server: RunningServer, body: dict[str, object], code: str, param: str, words: str
) -> None:
    response = server.post("/v1/responses", {"model": BASE, "input": "hello", **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert words in error["message"]


def test_an_adapter_that_does_not_load_is_refused_as_in_a_chat(
    start_server: StartServer, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "adapters" / "broken", b"bad")
    with start_server(adapter_dir=tmp_path / "adapters") as server:
        chat = {"model": "broken", "messages": [{"role": "user", "content": "hello"}]}
        as_chat = server.post("/v1/chat/completions", chat)
        answer = server.post("/v1/responses", {"model": "broken", "input": "hello"})
    assert answer.status_code == as_chat.status_code == 400
    assert answer.json() == as_chat.json()


def test_nothing_is_too_deep_to_be_refused(server: RunningServer) -> None:
    """Deeper than the libraries that walk through JSON would go."""
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"properties": deep}
    tool = {"type": "function", "name": "f", "parameters": deep}
    text_format = {"type": "json_schema", "name": "n", "schema": deep}
    for body in ({"tools": [tool]}, {"text": {"format": text_format}}, {"input": [deep]}):
        response = server.post("/v1/responses", {"model": BASE, "input": "hello", **body})
        assert response.status_code == 400


def test_the_client_library_gets_a_response(client: OpenAI) -> None:
    response = client.responses.create(model="red", input="hello", max_output_tokens=5)
    assert response.status == "incomplete"
    assert len(response.output_text) > 0
    with client.responses.stream(model="red", input="hello", max_output_tokens=5) as events:
        text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert text == response.output_text


def test_the_client_library_streams_to_the_final_response(client: OpenAI) -> None:
    with client.responses.stream(model=BASE, input=f"hello{END_OF_TURN}") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == "user: hello"


def test_the_client_library_gets_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="green", input="hello")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=BASE, input="hello", store=True)
    assert refused.value.param == "store"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_error_before_the_first_piece_has_its_status(
    start_server: StartServer, is_stream: bool
) -> None:
    with start_server() as server:
        # A character at whose token the fake engine fails.
        text = server.post("/detokenize", {"tokens": [FAIL_TOKEN]}).json()["prompt"]
        body = {"model": BASE, "input": text, "stream": is_stream}
        response = server.post("/v1/responses", body)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert 'status="500"' in server.get("/metrics").text


def test_a_stream_that_breaks_says_so_and_what_there_was(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.05}) as server:
        body = {"model": BASE, "input": "hello", "stream": True}
        with server.http.stream("POST", "/v1/responses", json=body) as response:
            pieces = response.iter_text()
            text = next(pieces)
            while "output_text.delta" not in text:
                text += next(pieces)
            server.kill_engine()
            events = check_events(text + "".join(pieces))
    error, failed = events[-2:]
    assert (error["type"], error["code"]) == ("error", "engine_dead")
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    (item,) = failed["response"]["output"]
    said = "".join(each["delta"] for each in events if each["type"].endswith("text.delta"))
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", said)


def test_a_stream_that_breaks_before_it_began_has_begun_and_failed(
    start_server: StartServer,
) -> None:
    """Its status went out with the first comment."""
    with start_server(engine={"max_running": 0}, sse_keep_alive_s=0.05) as server:
        body = {"model": BASE, "input": "hello", "stream": True}
        with server.http.stream("POST", "/v1/responses", json=body) as response:
            wait_until(lambda: server.events("AddRequest"))
            server.kill_engine()
            events = check_events("".join(response.iter_text()))
    kinds = [event["type"] for event in events]
    assert kinds == ["response.created", "response.in_progress", "error", "response.failed"]
    assert events[-1]["response"]["output"] == []


def test_a_client_that_leaves_is_noticed(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        body = {"model": BASE, "input": "hello", "stream": True}
        with server.http.stream("POST", "/v1/responses", json=body) as response:
            next(response.iter_text())
        wait_until(lambda: server.events("AbortRequest"))
        assert server.started.client.num_in_flight == 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_is_ignored_is_named(server: RunningServer, is_stream: bool) -> None:
    body = {"model": BASE, "input": "hi", "max_output_tokens": 2, "stream": is_stream}
    response = server.post("/v1/responses", {**body, "safety_identifier": "x", "user": "u"})
    assert response.headers["x-ignored-params"] == "safety_identifier"
    assert "x-ignored-params" not in server.post("/v1/responses", body).headers


def test_an_error_repeats_no_name_of_any_length(server: RunningServer) -> None:
    response = server.post("/v1/responses", {"model": BASE, "input": "hi", "z" * 100_000: 1})
    assert response.json()["error"]["code"] == "unknown_parameter"
    assert len(response.content) < 1000


def test_lenient_servers_ignore_what_nobody_knows(start_server: StartServer) -> None:
    body = {"model": BASE, "input": "hi", "max_output_tokens": 2}
    with start_server(lenient_parameters=True) as server:
        response = server.post("/v1/responses", {**body, "zzz": 1})
        assert response.status_code == 200, response.text
        assert response.headers["x-ignored-params"] == "zzz"
        # What would change the answer is refused, and so is what another endpoint calls it.
        for name, value in {"store": True, "max_tokens": 5, "seed": 1, "stop": "x"}.items():
            error = server.post("/v1/responses", {**body, name: value}).json()["error"]
            assert error["param"] == name
