"""What an answer may call, resolved from a request.

Owns: the meaning of `tools`, `tool_choice` and `parallel_tool_calls` together.
Does not know: how calls are written (`forms.py`), nor how they are enforced (`grammar.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from motet.server.tools.protocol import NamedToolChoice, Tool, ToolFunction


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions of one request.

    Attributes:
        offered: what the model is told of.
        callable: what it may call: one function, if the request named it.
        is_required: the answer has to be calls and nothing else.
        is_parallel: it may have more than one.
    """

    offered: tuple[ToolFunction, ...]
    callable: tuple[ToolFunction, ...]
    is_required: bool
    is_parallel: bool

    @property
    def names(self) -> frozenset[str]:
        """The names of the functions that may be called."""
        return frozenset(each.name for each in self.callable)


def tool_use(
    tools: Sequence[Tool] | None,
    choice: Literal["none", "auto", "required"] | NamedToolChoice | None,
    *,
    is_parallel: bool,
) -> ToolUse | None:
    """What a request with these fields may call; None is nothing.

    A function that is named is called once. Functions that may not be called are not shown to
    the model either, for it would call them.
    """
    if tools is None or choice == "none":
        return None
    offered = tuple(tool.function for tool in tools)
    if isinstance(choice, NamedToolChoice):
        named = tuple(each for each in offered if each.name == choice.function.name)
        return ToolUse(offered, named, is_required=True, is_parallel=False)
    return ToolUse(offered, offered, is_required=choice == "required", is_parallel=is_parallel)


def tools_json(use: ToolUse) -> list[dict[str, Any]]:
    """The offered functions as chat templates want them: OpenAI's objects, with all fields."""
    return [{"type": "function", "function": _described(each)} for each in use.offered]


def _described(function: ToolFunction) -> dict[str, Any]:
    # Templates of published models fail where one of these lacks.
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": function.parameters or {"type": "object", "properties": {}},
    }
