"""Code in what a chat template is given: messages, tools, options; and templates of others."""

import itertools
from typing import Any

import pytest
from jinja2.exceptions import SecurityError

from motet.core.errors import MotetError
from motet.server.chat_template import ChatOptions, ChatTemplate
from tests.server.running_server import BASE, RunningServer

CHAT = "/v1/chat/completions"
INJECTIONS = [
    "{{ 7*7 }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{% raw %}",
    "{% endfor %}",
    "{#",
    "{% include '/etc/passwd' %}",
    "{{ raise_exception('x') }}",
    "{{ messages }}",
    "#set($x=7*7)$x",
    "${7*7}",
    "<%= 7*7 %>",
    "%(x)s {0.__class__}",
]


def tokens_of(server: RunningServer, body: dict[str, Any]) -> str:
    answer = server.post("/tokenize", {"model": BASE, **body})
    assert answer.status_code == 200, answer.text
    text = server.post("/detokenize", {"tokens": answer.json()["tokens"]}).json()["text"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_stands_in_a_message_is_text(server: RunningServer, text: str) -> None:
    for content in (text, [{"type": "text", "text": text}]):
        body = {"messages": [{"role": "user", "content": content, "name": text}]}
        assert f"user: {text}\n" in tokens_of(server, body)
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
    continued = {"messages": messages, "continue_final_message": True}
    assert tokens_of(server, continued).endswith(f"assistant: {text}")


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_stands_in_a_tool_is_text(server: RunningServer, text: str) -> None:
    function = {
        "name": "look_up",
        "description": text,
        "parameters": {"type": "object", "properties": {text: {"description": text}}},
    }
    call = {"id": text, "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    body = {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": text, "content": text},
        ],
        "tools": [{"type": "function", "function": function}],
    }
    prompt = tokens_of(server, body)
    assert text in prompt
    assert "49" not in prompt.replace(text, "")


@pytest.mark.parametrize("name", ["{{ 7*7 }}", "a.b", "a b", "a\n", "a" * 65, "é", ""])
def test_a_tools_name_is_a_name(server: RunningServer, name: str) -> None:
    tools = [{"type": "function", "function": {"name": name}}]
    messages = [{"role": "user", "content": "x"}]
    answer = server.post(CHAT, {"model": BASE, "messages": messages, "tools": tools})
    assert answer.status_code == 400


FORBIDDEN = [
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "chat_template", "tokenize", "return_tensors", "return_dict"),
    *("padding", "truncation", "max_length", "raise_exception", "strftime_now", "range", "self"),
    *("loop", "namespace", "cycler", "lipsum", "tojson", "__class__", "conversation", "template"),
    *("tokenizer_kwargs", "load_audio_from_video", "custom", "", "a.b", "{{ 7*7 }}"),
]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_only_listed_options_reach_a_template(server: RunningServer, name: str) -> None:
    for value in (True, "x", [], {}):
        body = {
            "model": BASE,
            "messages": [{"role": "user", "content": "x"}],
            "chat_template_kwargs": {name: value},
        }
        for path in (CHAT, "/tokenize"):
            answer = server.post(path, body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"].startswith("chat_template_kwargs")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_thinking", "{{ 7*7 }}"),
        ("thinking_budget", 2**31),
        ("thinking_budget", -1),
        ("thinking_budget", 1e308),
        ("reasoning_effort", "maximal"),
        ("date_string", "x" * 65),
        ("date_string", ["x"]),
    ],
)
def test_listed_options_have_bounds(server: RunningServer, name: str, value: object) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {name: value}}
    assert server.post(CHAT, {"model": BASE, **body}).status_code == 400


@pytest.mark.parametrize("field", ["chat_template", "tokenizer", "template", "prompt_template"])
def test_no_request_brings_a_template(server: RunningServer, field: str) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], field: "{{ 7*7 }}"}
    for path in (CHAT, "/tokenize"):
        answer = server.post(path, body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ strftime_now.__code__ }}",
    "{{ self.__init__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ''['__class__'] }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ messages[0].pop('content') }}",
    "{{ messages.clear() }}",
    "{{ range(10**9)|list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% extends '/etc/passwd' %}",
    "{{ open('/etc/passwd') }}",
    "{{ __import__('os') }}",
    "{{ namespace().__class__.__init__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_models_own_template_is_in_a_sandbox(source: str) -> None:
    """A model is the operator's choice; what it says about chats still runs no code."""
    messages = [{"role": "user", "content": "kept"}]
    try:
        text = ChatTemplate(source, {}).render(messages)
    except (MotetError, SecurityError):
        text = ""
    assert text.strip() in ("", "None")
    assert messages == [{"role": "user", "content": "kept"}]


LOOP = "{% for i in range(100000) %}"


@pytest.mark.parametrize("source", [LOOP * 2 + "x" * 100 + "{% endfor %}" * 2, "{{ 'x' * 10**8 }}"])
def test_no_template_fills_the_memory(source: str) -> None:
    with pytest.raises(MotetError, match="writes more than"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])


def test_a_conversation_is_rendered_apart_from_the_event_loop(server: RunningServer) -> None:
    """4096 messages, the most there may be, and whatever they hold."""
    texts = itertools.cycle(INJECTIONS)
    messages = [{"role": "user", "content": next(texts)} for _ in range(4096)]
    answer = server.post(CHAT, {"model": BASE, "messages": messages})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    messages.append({"role": "user", "content": "x"})
    answer = server.post(CHAT, {"model": BASE, "messages": messages})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_options_are_not_mutable_through_a_template() -> None:
    template = ChatTemplate("{% set tools = 1 %}{{ messages[0].content }}{{ enable_thinking }}", {})
    options = ChatOptions(template_kwargs={"enable_thinking": True})
    assert template.render([{"role": "user", "content": "x"}], options) == "xTrue"
    assert options.template_kwargs == {"enable_thinking": True}
