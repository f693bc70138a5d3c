"""The grammar that an answer has to follow where calls are demanded or strict.

Owns: calls as a grammar of llguidance: the object of a call, and the schema of its arguments.
Does not know: what stands around a call (the form says), nor how a grammar is enforced.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from motet.server.errors import bad_request
from motet.server.json_layout import JSON_LAYOUT
from motet.server.tools.forms import ToolForm
from motet.server.tools.protocol import ToolFunction
from motet.server.tools.use import ToolUse

# What the schemas of all tools may come to. Escaped twice on its way to whoever compiles it, it
# grows to four times that.
MAX_GRAMMAR_CHARS = 256 << 10

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS = {"type": "object"}


class LarkCompiler(Protocol):
    """Makes llguidance's Lark a grammar. Raises MotetError (400), which names `param`."""

    async def __call__(self, text: str, param: str) -> str: ...


async def constrain(
    use: ToolUse,
    form: ToolForm,
    compiler: LarkCompiler,
    content_schema: Mapping[str, Any] | None = None,
) -> str | None:
    """What the answer has to be, as a grammar of llguidance; None if it is free.

    An answer that may but need not call is free, unless a function is `strict`. Then each call
    has to be one of an offered function once it has begun, and a strict function's arguments
    have to be valid against its schema.

    Args:
        content_schema: what an answer that does not call has to be; None is any text.

    Raises:
        MotetError: 400, by `compiler`, or because the schemas are too large together.
    """
    is_free = not use.is_required and content_schema is None
    if is_free and not any(each.strict for each in use.callable):
        return None
    text = await asyncio.to_thread(lark, use, form, content_schema)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise bad_request(
            f"The schemas of 'tools' take {len(text)} characters as a grammar; calls can be "
            f"enforced up to {MAX_GRAMMAR_CHARS}. Offer fewer functions, or set tool_choice to "
            "'auto' and leave 'strict' out.",
            "tools",
        )
    return await compiler(text, "tools")


def lark(use: ToolUse, form: ToolForm, content_schema: Mapping[str, Any] | None = None) -> str:
    """The grammar as text in llguidance's Lark."""
    has_schema = content_schema is not None and not use.is_required
    start = "start: answer\n"
    if has_schema:
        start = f"start: answer | content\ncontent: {_json_rule(content_schema or {})}\n"
    # Where an answer that is no call has a schema, there is no other text.
    is_calls = use.is_required or has_schema
    around = form.grammar_rules(is_required=is_calls, is_parallel=use.is_parallel)
    names = [f"call_{index}" for index in range(len(use.callable))]
    objects = [
        _call_rules(name, function, form, is_checked=use.is_required or bool(function.strict))
        for name, function in zip(names, use.callable, strict=True)
    ]
    return f"%llguidance {{}}\n{start}{around}call: {' | '.join(names)}\n{''.join(objects)}"


def _call_rules(rule: str, function: ToolFunction, form: ToolForm, *, is_checked: bool) -> str:
    # The schema is a grammar of its own, and so the root of what its "$ref"s refer to. A
    # function's name needs no quoting: it is of letters, digits, "_" and "-".
    head = json.dumps(f'{{"name": "{function.name}", "{form.arguments_key}": ')
    schema = _arguments_schema(function) if is_checked else _ANY_ARGUMENTS
    return f'{rule}: {head} {rule}_arguments "}}"\n{rule}_arguments: {_json_rule(schema)}\n'


def _json_rule(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_LAYOUT})}"


def _arguments_schema(function: ToolFunction) -> dict[str, Any]:
    return (
        _NO_ARGUMENTS if function.parameters is None else {**function.parameters, "type": "object"}
    )
