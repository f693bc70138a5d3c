"""How a model is told of tools, calls and results: as by transformers, or in words."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from motet.server.protocol import Message
from motet.server.tokenizer import TextTokenizer
from motet.server.tools.forms import native_form
from motet.server.tools.hermes import HermesForm
from motet.server.tools.llama3 import Llama3Form
from motet.server.tools.prompt import template_input
from motet.server.tools.protocol import Tool
from motet.server.tools.use import ToolUse, tool_use
from tests.server.tiny_model import CHAT_TEMPLATE, write_tiny_model

# In the manner of the templates of models with each form.
HERMES_TEMPLATE = """{% if tools %}tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}call as <tool_call>{{ '{"name": .., "arguments": ..}' }}</tool_call>
{% endif %}{% for message in messages %}{{ message.role }}: {{ message.content }}
{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
LLAMA3_TEMPLATE = """<|start_header_id|>{% if tools is not none %}{{ tools | tojson(indent=4) }}
Answer as {"name": function name, "parameters": arguments}.
{% endif %}{% for message in messages %}{% if 'tool_calls' in message %}
{% if message.tool_calls | length > 1 %}{{ raise_exception('one call only') }}{% endif %}
{% set call = message.tool_calls[0].function %}
{{ '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}}
{% else %}{{ message.role }}: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a “city”.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
ARGUMENTS = {"city": "Köln", "days": [1, 2]}


def called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [called("c1", "weather", json.dumps(ARGUMENTS)), called("c2", "now", "{}")],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
    {"role": "tool", "content": "noon", "tool_call_id": "c2", "name": "now"},
    {"role": "user", "content": "Thanks."},
]


_asked, _calls, _rain, _noon, _thanked = CONVERSATION
ONE_BY_ONE: list[dict[str, Any]] = [
    _asked,
    {**_calls, "tool_calls": _calls["tool_calls"][:1]},
    _rain,
    {**_calls, "tool_calls": _calls["tool_calls"][1:]},
    _noon,
    _thanked,
]


def messages(*raw: dict[str, Any]) -> list[Message]:
    return [Message.model_validate(each) for each in raw]


def use_of(tools: list[dict[str, Any]]) -> ToolUse | None:
    return tool_use([Tool.model_validate(each) for each in tools], "auto", is_parallel=True)


@pytest.mark.parametrize(
    ("template", "conversation"),
    [
        (HERMES_TEMPLATE, CONVERSATION),
        # Its template takes one call a message, so they are told one after the other.
        (LLAMA3_TEMPLATE, ONE_BY_ONE),
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_templates_that_know_tools_get_what_transformers_gives_them(
    template: str,
    conversation: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    tmp_path: Path,
) -> None:
    model_dir = write_tiny_model(tmp_path, chat_template=template)
    # There, arguments are objects.
    decoded = json.loads(json.dumps(conversation))
    for call in (call for message in decoded for call in message.get("tool_calls", [])):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    expected = AutoTokenizer.from_pretrained(model_dir).apply_chat_template(
        decoded, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    use = None if tools is None else use_of(tools)
    ours, its_tools = template_input(template, messages(*CONVERSATION), use)
    tokenizer = TextTokenizer.from_dir(model_dir)
    assert tokenizer.encode_chat(ours, tools=its_tools) == expected


def test_a_template_of_its_own_for_tools_is_used_for_them(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    named = [
        {"name": "default", "template": "default"},
        {"name": "tool_use", "template": HERMES_TEMPLATE},
    ]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    tokenizer = TextTokenizer.from_dir(tmp_path)
    assert tokenizer.tool_template_source == HERMES_TEMPLATE
    assert tokenizer.decode(tokenizer.encode_chat([])) == "default"
    assert "tools: " in tokenizer.decode(tokenizer.encode_chat([], tools=TOOLS))


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (HERMES_TEMPLATE, HermesForm),
        (LLAMA3_TEMPLATE, Llama3Form),
        (CHAT_TEMPLATE, type(None)),
        ("", type(None)),
        ("{{ tools }} [TOOL_CALLS]", type(None)),
        # Not a word of tools: the marks are chance. In the tags, but not as JSON.
        ('<tool_call>"arguments"', type(None)),
        ("{{ tools }}<tool_call><function=f>", type(None)),
        ('{{ tools }}{{ "<tool_call>{\\"arguments\\": .." }}', HermesForm),
    ],
)
def test_the_form_is_found_in_the_template(template: str, form: type) -> None:
    assert type(native_form(template)) is form


def test_without_tools_nothing_is_said_of_them() -> None:
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "Eva"},
    ]
    assert template_input(CHAT_TEMPLATE, messages(*conversation), None) == (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "Eva"},
        ],
        None,
    )


def test_other_templates_get_calls_and_results_as_text() -> None:
    worded, tools = template_input(CHAT_TEMPLATE, messages(*CONVERSATION), None)
    assert tools is None
    assert [each["role"] for each in worded] == ["user", "assistant", "user", "user"]
    first = json.dumps({"name": "weather", "arguments": ARGUMENTS})
    second = json.dumps({"name": "now", "arguments": {}})
    assert worded[1]["content"] == (
        f"<tool_call>\n{first}\n</tool_call>\n<tool_call>\n{second}\n</tool_call>"
    )
    assert worded[2]["content"] == (
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    )
    # And they are in the form in which calls are looked for.
    parser = HermesForm().parser({"weather", "now"}, is_parallel=True)
    parser.push(worded[1]["content"])
    assert parser.has_calls


def test_other_templates_are_told_of_tools_in_the_system_message() -> None:
    use = use_of(TOOLS)
    with_system = messages({"role": "system", "content": "Be kind."}, CONVERSATION[0])
    (system, user), tools = template_input(CHAT_TEMPLATE, with_system, use)
    assert tools is None
    assert system["role"] == "system"
    assert system["content"].startswith("Be kind.\n\n")
    assert user["content"] == "Weather?"
    lines = system["content"].splitlines()
    assert [json.loads(line) for line in lines if line.startswith('{"type"')] == TOOLS
    alone, _ = template_input(CHAT_TEMPLATE, messages(CONVERSATION[0]), use)
    assert alone[0]["content"] == system["content"].removeprefix("Be kind.\n\n")


def test_results_are_named_after_what_was_called() -> None:
    nameless = [{k: v for k, v in each.items() if k != "name"} for each in CONVERSATION]
    native, _ = template_input(HERMES_TEMPLATE, messages(*nameless), None)
    assert [each["name"] for each in native if each["role"] == "tool"] == ["weather", "now"]


def test_results_in_another_order_and_calls_without_one() -> None:
    late = [_asked, _calls, _noon, _thanked, _rain]
    split, _ = template_input(LLAMA3_TEMPLATE, messages(*late), None)
    assert [each.get("name", each["role"]) for each in split] == [
        "user",
        "assistant",
        "assistant",
        "now",
        "user",
        "weather",
    ]


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '{"a":' + "[" * 500 + "]" * 500 + "}"])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [called("c", "now", arguments)]}
    (native,), _ = template_input(HERMES_TEMPLATE, messages(call), None)
    assert native["tool_calls"][0]["function"]["arguments"] == arguments
