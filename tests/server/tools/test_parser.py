"""Calls in text, in both forms, however the text is cut and whatever is around them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.server.tools.events import CallBegins, CallBreaks, Event, joined, message
from motet.server.tools.forms import ToolForm
from motet.server.tools.hermes import HermesForm
from motet.server.tools.llama3 import Llama3Form
from tests.server.tools.test_object_scanner import json_objects

NAMES = ("f", "get_weather")
HERMES, LLAMA3 = HermesForm(), Llama3Form()
forms = pytest.mark.parametrize("form", [HERMES, LLAMA3])

# Whole calls, halves of calls, and what looks like either.
FRAGMENTS = [
    '<tool_call>\n{"name": "f", "arguments": {"x": [1, "}"]}}\n</tool_call>',
    '{"arguments": {"ü": "\\u00fc\\"{"}, "name": "get_weather", "id": 5}',
    '{"name": "f", "parameters": {}}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "f", "arguments": {"a": oops}}',
    '{"name": "f", "arguments": 5}',
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "<tool_",
    "call>",
    "<",
    ";",
    "{",
    '{"name": "f", "argu',
    '"}}',
    " ",
    "\n\n",
    "Hello",
    "ü",
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=8).map("".join)


def call(name: str, arguments: object, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def parse(form: ToolForm, *pieces: str) -> list[Event]:
    parser = form.parser(NAMES, is_parallel=True)
    events = [event for piece in pieces for event in parser.push(piece)]
    events += parser.finish()
    _, calls = message(events)
    assert parser.has_calls == bool(calls)
    return events


def without_ids(events: list[Event]) -> list[Event]:
    return joined(
        CallBegins(each.index, "", each.name) if isinstance(each, CallBegins) else each
        for each in events
    )


def said(form: ToolForm, *pieces: str) -> tuple[str, list[tuple[str, str]]]:
    """The content, and the name and arguments of each call."""
    content, calls = message(parse(form, *pieces))
    functions: list[dict[str, Any]] = [each["function"] for each in calls]
    assert len({each["id"] for each in calls}) == len(calls)
    return content, [(each["name"], each["arguments"]) for each in functions]


@forms
@given(text=texts, data=st.data())
def test_the_events_do_not_depend_on_how_the_text_was_cut(
    form: ToolForm, text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = without_ids(parse(form, text))
    assert without_ids(parse(form, *pieces)) == whole
    assert without_ids(parse(form, *text)) == whole


@forms
@given(text=texts)
def test_what_is_no_call_is_content_to_the_last_character(form: ToolForm, text: str) -> None:
    content, calls = said(form, text)
    if not calls:
        assert content == text
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)


@given(arguments=json_objects, is_ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_arguments_come_as_they_were_written(
    arguments: dict[str, Any], is_ascii: bool, indent: int | None
) -> None:
    written = json.dumps(arguments, ensure_ascii=is_ascii, indent=indent)
    hermes = f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'
    assert said(HERMES, hermes) == ("", [("f", written)])
    llama3 = f'{{"name": "f", "parameters": {written}}}'
    assert said(LLAMA3, f"{llama3}; {llama3}") == ("", [("f", written)] * 2)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello, <b>you</b> ", "Hello, <b>you</b> ", []),
        (f"<tool_call>\n{call('f', {})}\n</tool_call>\n", "", [("f", "{}")]),
        (
            f"Both:\n<tool_call>{call('f', {})}</tool_call>\n\n<tool_call>{call('f', {'x': 1})}",
            "Both:",
            [("f", "{}"), ("f", '{"x": 1}')],
        ),
        (f"a <tool_call>{call('f', {})}</tool_call> b ", "a b ", [("f", "{}")]),
        (f"<tool_call>{call('f', {}, 'parameters')}", "", [("f", "{}")]),
        # Closing tags that close nothing, and tags within strings.
        ("</tool_call> a", "</tool_call> a", []),
        (
            f"<tool_call>{call('f', {'x': '</tool_call>'})}</tool_call></tool_call>",
            "</tool_call>",
            [("f", '{"x": "</tool_call>"}')],
        ),
        # No calls: a function that is not offered, no arguments, no object, cut off.
        (f"<tool_call>{call('g', {})}</tool_call>",) * 2 + ([],),
        ('<tool_call>{"name": "f"}</tool_call>',) * 2 + ([],),
        (f"<tool_call>[{call('f', {})}]",) * 2 + ([],),
        ('<tool_call>{"name": "f", "arguments": {"x": 1',) * 2 + ([],),
        # What went wrong does not hide the call after it.
        (
            f'<tool_call>{{"name": "f", <tool_call>{call("f", {})}</tool_call>',
            '<tool_call>{"name": "f", ',
            [("f", "{}")],
        ),
        # All that makes a call has come.
        ('<tool_call>{"name": "f", "arguments": {}', "", [("f", "{}")]),
        # The answer was cut off within the tag behind it.
        (f"<tool_call>\n{call('f', {})}\n</tool_c", "", [("f", "{}")]),
        # Without a tag it is an answer in JSON.
        (call("f", {}), call("f", {}), []),
    ],
)
def test_hermes(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert said(HERMES, text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello; {you} ", "Hello; {you} ", []),
        (f" {call('f', {}, 'parameters')}\n", "", [("f", "{}")]),
        (f"<|python_tag|>{call('f', {}, 'parameters')}", "", [("f", "{}")]),
        (f"{call('f', {})};\n{call('f', {'x': 1})} ;", "", [("f", "{}"), ("f", '{"x": 1}')]),
        (f"{call('f', {})}\n{call('f', {})}", "", [("f", "{}")] * 2),
        ('{"type": "function", ' + call("f", {})[1:], "", [("f", "{}")]),
        (f"{call('f', {})}; done", "; done", [("f", "{}")]),
        (f"I call {call('f', {})}", f"I call {call('f', {})}", []),
        ('{"name": "Bob", "parameters": {}}',) * 2 + ([],),
        ('{"answer": 42}',) * 2 + ([],),
        ("<|python_",) * 2 + ([],),
        (f"<|python_ {call('f', {})}",) * 2 + ([],),
    ],
)
def test_llama3(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert said(LLAMA3, text) == (content, calls)


def test_a_call_is_announced_before_its_arguments_and_they_come_as_they_are_written() -> None:
    parser = HERMES.parser(NAMES, is_parallel=True)
    assert parser.push('<tool_call>{"name": "f", "arguments": ') == []
    begins, *arguments = parser.push('{"x"')
    assert isinstance(begins, CallBegins)
    assert (begins.index, begins.name) == (0, "f")
    assert begins.id.startswith("call_")
    assert [each.text for each in arguments] == ['{"x"']  # type: ignore[union-attr]
    assert [each.text for each in parser.push(": 1}")] == [": 1}"]  # type: ignore[union-attr]
    assert parser.push("}</tool_call>") == []
    assert parser.finish() == []


def test_what_may_be_a_tag_is_held_back() -> None:
    parser = HERMES.parser(NAMES, is_parallel=True)
    assert message(parser.push("a <tool"))[0] == "a"
    assert message(parser.push("box>"))[0] == " <toolbox>"


def test_a_call_that_breaks_after_it_was_announced_says_so() -> None:
    events = parse(HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1')
    assert events[-1] == CallBreaks(0, '<tool_call>{"name": "f", "arguments": {"x": 1')


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [
        (HERMES, f"<tool_call>{call('f', {})}</tool_call> <tool_call>{call('f', {'x': 1})}", None),
        (LLAMA3, f"{call('f', {})}; {call('f', {'x': 1})}", None),
        (HERMES, f"<tool_call>{call('f', {})}</tool_call>\n", ""),
        (LLAMA3, f"{call('f', {})};\n", ""),
        # What broke was no call.
        (HERMES, f"<tool_call>oops<tool_call>{call('f', {})}", "<tool_call>oops"),
    ],
)
def test_where_one_call_is_allowed_what_follows_it_is_content(
    form: ToolForm, text: str, content: str | None
) -> None:
    parser = form.parser(NAMES, is_parallel=False)
    found, calls = message([*parser.push(text), *parser.finish()])
    assert [each["function"]["arguments"] for each in calls] == ["{}"]
    if content is None:
        content = text[text.index("}}") + 2 :].removeprefix("</tool_call>")
    assert found == content
