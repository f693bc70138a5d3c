"""Function calls through OpenAI's own client, whole and streamed, over an engine with a script."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from motet.server.tokenizer import TextTokenizer
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.tiny_model import EOS, write_tiny_model
from tests.server.tools.test_prompt import LLAMA3_TEMPLATE

EOS_TOKEN = 257
ENGINE = {"script_token": EOS_TOKEN, "max_model_len": 8192}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS: list[Any] = [WEATHER, NOW]
KOELN = '{"city": "Köln }", "days": [1, 2]}'
ONE = f'<tool_call>\n{{"name": "weather", "arguments": {KOELN}}}\n</tool_call>'
TWO = f'Let me see.\n{ONE}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'


@pytest.fixture(scope="module")
def scripted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("tools") / "engine.jsonl"
    with running_server(model_dir, log, ENGINE) as server:
        yield server


@pytest.fixture(scope="module")
def client(scripted: RunningServer) -> OpenAI:
    return client_of(scripted)


def client_of(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def told_to_say(answer: str) -> dict[str, str]:
    """A message that the engine answers with just that."""
    return {"role": "user", "content": f"Say {EOS}{answer}{EOS}"}


def ask(client: OpenAI, answer: str, **params: Any) -> Any:
    params = {"tools": TOOLS, "messages": [told_to_say(answer)], **params}
    return client.chat.completions.create(model=BASE, **params)


def streamed(
    chunks: list[ChatCompletionChunk], index: int = 0
) -> tuple[str, list[Any], str | None]:
    """Content, calls and finish reason of one choice, put together from its chunks."""
    content, calls, reason = "", [], None
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index != index:
                continue
            assert reason is None
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.index == len(calls):
                    assert part.type == "function"
                    assert part.id is not None
                    assert part.function.name is not None
                    calls.append([part.id, part.function.name, ""])
                else:
                    assert part.function.name is None
                calls[part.index][2] += part.function.arguments
            reason = choice.finish_reason
    return content, calls, reason


def test_an_answer_that_only_calls(client: OpenAI) -> None:
    choice = ask(client, ONE).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert (call.function.name, call.function.arguments) == ("weather", KOELN)


def test_two_calls_beside_text(client: OpenAI) -> None:
    choice = ask(client, TWO).choices[0]
    assert choice.message.content == "Let me see."
    first, second = choice.message.tool_calls
    assert first.id != second.id
    assert (first.function.name, second.function.name) == ("weather", "now")
    assert second.function.arguments == "{}"


def test_streamed_calls_are_the_whole_ones_in_pieces(client: OpenAI) -> None:
    chunks = list(ask(client, TWO, stream=True, stream_options={"include_usage": True}))
    content, calls, reason = streamed(chunks)
    assert content == "Let me see."
    assert [call[1:] for call in calls] == [["weather", KOELN], ["now", "{}"]]
    assert reason == "tool_calls"
    # The arguments come while they are written: here a character at a time.
    assert len(chunks) > len(KOELN)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(TWO.encode()) + 1


def test_the_clients_own_stream_helper_understands(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=BASE,
        messages=[told_to_say(TWO)],
        tools=TOOLS,  # type: ignore[list-item]
    ) as stream:
        names = [e.name for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert names == ["weather", "now"]
    assert final.choices[0].finish_reason == "tool_calls"


def test_several_choices_have_calls_of_their_own(client: OpenAI) -> None:
    choices = ask(client, ONE, n=2).choices
    ids = [call.id for choice in choices for call in choice.message.tool_calls]
    assert len(set(ids)) == 2
    chunks = list(ask(client, ONE, n=2, stream=True))
    for index in range(2):
        (call,) = streamed(chunks, index)[1]
        assert call[1:] == ["weather", KOELN]


def test_the_next_turn_has_the_calls_and_their_results(
    scripted: RunningServer, client: OpenAI, model_dir: Path
) -> None:
    conversation: list[Any] = [told_to_say(TWO)]
    message = ask(client, TWO).choices[0].message
    conversation.append(message)
    for call, result in zip(message.tool_calls, ("rain", "noon"), strict=True):
        conversation.append({"role": "tool", "tool_call_id": call.id, "content": result})
    conversation.append(told_to_say("It rains."))
    choice = client.chat.completions.create(model=BASE, messages=conversation, tools=TOOLS).choices[
        0
    ]
    assert (choice.message.content, choice.finish_reason) == ("It rains.", "stop")
    assert choice.message.tool_calls is None
    ids = scripted.events("AddRequest")[-1]["prompt_token_ids"]
    prompt = TextTokenizer.from_dir(model_dir).decode(ids)
    results = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    assert f"assistant: {TWO}\nuser: {results}\nuser: Say " in prompt


@pytest.mark.parametrize(
    "answer",
    [
        "No call.",
        '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": oops}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {"a": oops}}\n</tool_call>',
        '<tool_call>{"name": "now"',
        "<tool_call>" + '{"a":' * 70,
    ],
)
def test_what_is_no_call_is_content(client: OpenAI, answer: str) -> None:
    choice = ask(client, answer).choices[0]
    assert choice.message.content == answer
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert streamed(list(ask(client, answer, stream=True)))[2] == "stop"


def test_a_call_cut_off_is_no_call(client: OpenAI) -> None:
    choice = ask(client, ONE, max_tokens=60).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content == ONE.encode()[:60].decode(errors="ignore")
    content, calls, reason = streamed(list(ask(client, ONE, max_tokens=60, stream=True)))
    assert (content, reason) == ("", "length")
    # It was under way; what was sent is the beginning of its arguments.
    assert KOELN.startswith(calls[0][2])


def test_a_stop_string_is_looked_for_in_the_text_as_it_is_written(client: OpenAI) -> None:
    choice = ask(client, TWO, stop=['\n<tool_call>\n{"name": "now']).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["weather"]
    assert choice.finish_reason == "tool_calls"


def test_one_call_at_a_time(client: OpenAI) -> None:
    choice = ask(client, TWO, parallel_tool_calls=False).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["weather"]
    assert choice.message.content.startswith("Let me see.\n<tool_call>")
    assert choice.finish_reason == "tool_calls"


def test_all_tokens_have_log_probabilities_beside_calls(client: OpenAI) -> None:
    extra = {"return_token_ids": True}
    choice = ask(client, TWO, logprobs=True, seed=0, extra_body=extra).choices[0]
    assert len(choice.message.tool_calls) == 2
    assert len(choice.logprobs.content) == len(TWO.encode()) + 1
    chunks = list(ask(client, TWO, logprobs=True, seed=0, extra_body=extra, stream=True))
    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for each in told if each for token in each.content] == choice.logprobs.content
    ids = [getattr(chunk.choices[0], "token_ids", None) or [] for chunk in chunks]
    assert [token for each in ids for token in each] == choice.token_ids


def test_the_model_is_told_of_the_tools_unless_it_may_call_none(
    scripted: RunningServer, client: OpenAI
) -> None:
    plain = ask(client, "x", tools=openai.NOT_GIVEN)
    none = ask(client, ONE, tool_choice="none")
    auto = ask(client, "x")
    assert none.choices[0].message.content == ONE
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens + len(ONE.encode()) - 1
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens + 100


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_demanded_calls_are_a_grammar_for_the_engine(
    scripted: RunningServer, client: OpenAI, choice: Any
) -> None:
    ask(client, ONE, tool_choice=choice, n=2)
    first, second = (each["sampling"]["grammar"] for each in scripted.events("AddRequest")[-2:])
    assert first == second
    assert "answer: tagged" in first
    ask(client, ONE)
    assert scripted.events("AddRequest")[-1]["sampling"]["grammar"] is None
    ask(client, ONE, tools=[{**NOW, "function": {"name": "now", "strict": True}}])
    assert scripted.events("AddRequest")[-1]["sampling"]["grammar"] is not None


def test_tools_beside_a_response_format(scripted: RunningServer, client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"x": {"const": "the content"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    ask(client, ONE, response_format=wanted)
    grammar = scripted.events("AddRequest")[-1]["sampling"]["grammar"]
    assert "start: answer | content" in grammar
    assert "the content" in grammar
    ask(client, ONE, response_format=wanted, tool_choice="required")
    grammar = scripted.events("AddRequest")[-1]["sampling"]["grammar"]
    assert "the content" not in grammar
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, ONE, extra_body={"structured_outputs": {"regex": "a"}})
    assert caught.value.param == "structured_outputs.regex"


def test_a_schema_that_cannot_be_enforced_is_refused_before_anything_runs(
    scripted: RunningServer, client: OpenAI
) -> None:
    num_requests = len(scripted.events("AddRequest"))
    broken = {"type": "function", "function": {"name": "f", "parameters": {"allOf": 5}}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "x", tools=[broken], tool_choice="required", stream=True)
    assert caught.value.param == "tools"
    assert len(scripted.events("AddRequest")) == num_requests


def test_many_large_schemas_are_refused_and_harm_nobody(
    scripted: RunningServer, client: OpenAI
) -> None:
    """Each is within its bound, and so is the body; text with quotes grows with each escape."""
    schema = {"type": "object", "description": '"' * 30_000}
    many = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(60)
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "x", tools=many, tool_choice="required")
    assert caught.value.param == "tools"
    ask(client, ONE, tool_choice="required")
    assert scripted.events("AddRequest")[-1]["sampling"]["grammar"] is not None


def test_a_model_of_the_other_form(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", chat_template=LLAMA3_TEMPLATE)
    answer = f'{{"name": "weather", "parameters": {KOELN}}}; {{"name": "now", "parameters": {{}}}}'
    with running_server(model_dir, tmp_path / "engine.jsonl", ENGINE) as server:
        client = client_of(server)
        message = ask(client, answer).choices[0].message
        with pytest.raises(openai.BadRequestError, match="'response_format' and 'tools'"):
            ask(client, answer, response_format={"type": "json_object"})
        content, calls, reason = streamed(list(ask(client, answer, stream=True)))
    assert message.content is None
    assert [call.function.name for call in message.tool_calls] == ["weather", "now"]
    assert message.tool_calls[0].function.arguments == KOELN
    assert (content, reason) == ("", "tool_calls")
    assert [call[1:] for call in calls] == [["weather", KOELN], ["now", "{}"]]
