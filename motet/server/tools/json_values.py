"""JSON that comes from strangers: as deep and as broken as they like.

Owns: reading it without running out of stack.
Does not know: what it is about.
"""

from __future__ import annotations

from typing import Any

import orjson

from motet.server.tools.object_scanner import MAX_DEPTH


def depth(value: Any) -> int:
    """How deep objects and arrays are nested; 0 for what is neither."""
    found = 0
    level = [value]  # found level by level: a recursive function would need as deep a stack
    while level := [each for each in level if isinstance(each, dict | list)]:
        found += 1
        level = [inner for each in level for inner in _members(each)]
    return found


def parsed_object(text: str) -> dict[str, Any] | None:
    """The object that `text` is; None if it is no JSON, none of an object, or nested too deep."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and depth(value) <= MAX_DEPTH else None


def _members(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
