"""What the grammars of calls let through, asked of llguidance itself."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from motet.core.errors import MotetError
from motet.server.tools import grammar
from motet.server.tools.events import message
from motet.server.tools.forms import ToolForm
from motet.server.tools.grammar import constrain, lark
from motet.server.tools.hermes import HermesForm
from motet.server.tools.llama3 import Llama3Form
from motet.server.tools.protocol import NamedToolChoice, Tool
from motet.server.tools.use import ToolUse, tool_use

HERMES, LLAMA3 = HermesForm(), Llama3Form()

WEATHER = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "minLength": 1}},
}
PARIS = {"city": "Paris"}


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> LLTokenizer:
    return LLTokenizer((model_dir / "tokenizer.json").read_text(), eos_token=257)


def use_of(
    choice: Any = "auto", *, is_parallel: bool = True, weather_is_strict: bool = False
) -> ToolUse:
    weather = {"name": "weather", "parameters": WEATHER, "strict": weather_is_strict}
    functions = [weather, {"name": "weather_now"}, {"name": "free", "parameters": {}}]
    tools = [Tool.model_validate({"type": "function", "function": each}) for each in functions]
    use = tool_use(tools, choice, is_parallel=is_parallel)
    assert use is not None
    return use


def named(name: str) -> NamedToolChoice:
    return NamedToolChoice.model_validate({"type": "function", "function": {"name": name}})


def answer(form: ToolForm, *calls: tuple[str, object]) -> str:
    objects = [
        json.dumps({"name": name, form.arguments_key: args}, ensure_ascii=False)
        for name, args in calls
    ]
    if form is LLAMA3:
        return "; ".join(objects)
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects)


def is_let_through(
    tokenizer: LLTokenizer,
    form: ToolForm,
    use: ToolUse,
    text: str,
    content_schema: dict[str, Any] | None = None,
) -> bool:
    """Whether the text may be written, and the answer may then end."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark(use, form, content_schema)))
    assert not matcher.get_error()
    token_ids = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


VALID = [
    [("weather", PARIS)],
    [("weather", {"city": 'ü {"} \\', "days": -3})],
    [("weather_now", {})],
    [("free", {"anything": [1, {"x": None}]})],
    [("weather", PARIS), ("weather_now", {}), ("weather", PARIS)],
]
INVALID_ARGUMENTS = [
    ("weather", {}),
    ("weather", {"city": ""}),
    ("weather", {"city": 5}),
    ("weather", {"city": "Paris", "more": 1}),
    ("weather", {"city": "Paris", "days": 1.5}),
    ("weather", ["Paris"]),
    ("weather_now", {"x": 1}),
]
forms = pytest.mark.parametrize("form", [HERMES, LLAMA3])


@forms
def test_required_is_valid_calls_and_nothing_else(tokenizer: LLTokenizer, form: ToolForm) -> None:
    use = use_of("required")
    for calls in VALID:
        text = answer(form, *calls)
        assert is_let_through(tokenizer, form, use, text)
        # And what the grammar lets through, the parser finds.
        parser = form.parser(use.names, is_parallel=True)
        content, found = message([*parser.push(text), *parser.finish()])
        functions = [each["function"] for each in found]
        assert content == ""
        assert [(each["name"], json.loads(each["arguments"])) for each in functions] == calls
    for wrong in (*INVALID_ARGUMENTS, ("nobody", {})):
        assert not is_let_through(tokenizer, form, use, answer(form, wrong))
    for text in (
        "",
        "Hello",
        answer(form, *VALID[0]) + " Hello",
        "Hello " + answer(form, *VALID[0]),
    ):
        assert not is_let_through(tokenizer, form, use, text)


@forms
def test_one_call_at_a_time(tokenizer: LLTokenizer, form: ToolForm) -> None:
    use = use_of("required", is_parallel=False)
    assert is_let_through(tokenizer, form, use, answer(form, ("weather", PARIS)))
    assert not is_let_through(tokenizer, form, use, answer(form, *VALID[-1]))
    use = use_of("auto", is_parallel=False, weather_is_strict=True)
    assert is_let_through(tokenizer, form, use, answer(form, ("weather", PARIS)))
    assert not is_let_through(tokenizer, form, use, answer(form, *VALID[-1]))


@forms
def test_a_named_function_is_called_once(tokenizer: LLTokenizer, form: ToolForm) -> None:
    use = use_of(named("weather"))
    assert [each.name for each in use.offered] == ["weather", "weather_now", "free"]
    assert is_let_through(tokenizer, form, use, answer(form, ("weather", PARIS)))
    for calls in ([("weather_now", {})], [("weather", PARIS)] * 2, [INVALID_ARGUMENTS[0]]):
        assert not is_let_through(tokenizer, form, use, answer(form, *calls))


@forms
def test_a_strict_function_may_but_need_not_be_called(
    tokenizer: LLTokenizer, form: ToolForm
) -> None:
    use = use_of("auto", weather_is_strict=True)
    for text in ("", "Hello <b>", "<", "a\n{ <tool", *(answer(form, *calls) for calls in VALID)):
        assert is_let_through(tokenizer, form, use, text), text
    # The others are not strict; their arguments are any object.
    assert is_let_through(tokenizer, form, use, answer(form, ("weather_now", {"x": 1})))
    assert not is_let_through(tokenizer, form, use, answer(form, ("weather_now", ["x"])))
    for wrong in INVALID_ARGUMENTS[:6]:
        assert not is_let_through(tokenizer, form, use, answer(form, wrong))


def test_strict_calls_may_stand_among_text(tokenizer: LLTokenizer) -> None:
    use = use_of("auto", weather_is_strict=True)
    good, wrong = answer(HERMES, ("weather", PARIS)), answer(HERMES, ("weather", {}))
    assert is_let_through(tokenizer, HERMES, use, f"See: {good} and {good} then.")
    assert not is_let_through(tokenizer, HERMES, use, f"See: {good} and {wrong}")
    assert not is_let_through(tokenizer, HERMES, use, "<tool_call>oh")


def test_bare_json_that_could_be_a_call_has_to_be_one(tokenizer: LLTokenizer) -> None:
    use = use_of("auto", weather_is_strict=True)
    for text in ('{"answer": 42}', " {", '<|python_tag|>{"name": "weather", "parameters": {}}'):
        assert not is_let_through(tokenizer, LLAMA3, use, text)


async def nothing_to_compile(text: str, param: str) -> str:
    raise AssertionError(f"{param} became {text}")


@forms
def test_without_strict_functions_auto_is_free(form: ToolForm) -> None:
    assert asyncio.run(constrain(use_of("auto"), form, nothing_to_compile)) is None


@forms
def test_schemas_that_are_too_large_together_are_not_compiled(
    form: ToolForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(lark(use_of("required"), form))
    monkeypatch.setattr(grammar, "MAX_GRAMMAR_CHARS", size - 1)
    with pytest.raises(MotetError, match=str(size)) as caught:
        asyncio.run(constrain(use_of("required"), form, nothing_to_compile))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "tools")


def test_the_compiler_decides_what_the_grammar_is() -> None:
    async def compiler(text: str, param: str) -> str:
        assert (text, param) == (lark(use_of("required"), HERMES), "tools")
        return "compiled"

    assert asyncio.run(constrain(use_of("required"), HERMES, compiler)) == "compiled"


def test_text_in_a_schema_does_not_become_grammar(tokenizer: LLTokenizer) -> None:
    evil = 'x"}\nstart: /.*/\n%json {"'
    function = {"name": "f", "parameters": {"properties": {evil: {"const": evil}}, "title": evil}}
    tools = [Tool.model_validate({"type": "function", "function": function})]
    use = tool_use(tools, "required", is_parallel=True)
    assert use is not None
    assert is_let_through(tokenizer, HERMES, use, answer(HERMES, ("f", {evil: evil})))
    assert not is_let_through(tokenizer, HERMES, use, answer(HERMES, ("f", {evil: "y"})))
    assert not is_let_through(tokenizer, HERMES, use, "anything")


def test_an_answer_is_calls_or_what_its_schema_says(tokenizer: LLTokenizer) -> None:
    form = HERMES
    schema = {"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "type": "object"}

    def is_taken(use: ToolUse, text: str) -> bool:
        return is_let_through(tokenizer, form, use, text, schema)

    use = use_of("auto", weather_is_strict=True)
    assert is_taken(use, '{"ok": true}')
    assert is_taken(use, answer(form, *VALID[-1]))
    for text in ("", "Hello", '{"ok": 1}', '{"ok": true} ', answer(form, ("weather", {}))):
        assert not is_taken(use, text)
    assert not is_taken(use_of("required"), '{"ok": true}')
    assert is_taken(use_of("auto"), answer(form, ("weather", {})))
