"""How deep a JSON body may be.

Owns: this bound. Whatever walks a value further on may then use recursion.
"""

from __future__ import annotations

from typing import Any

from motet.server.errors import bad_request

MAX_JSON_DEPTH = 64


def require_shallow(body: bytes, value: Any) -> None:
    """Raises MotetError (400 `invalid_json`) if `value`, read from `body`, is nested too deep."""
    # Most bodies have too few brackets to be deep, long lists of token ids among them.
    if body.count(b"[") + body.count(b"{") <= MAX_JSON_DEPTH:
        return
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for each in level for child in _containers_in(each)]
        if not level:
            return
    raise bad_request(
        f"The body nests objects and lists more than {MAX_JSON_DEPTH} deep.",
        None,
        code="invalid_json",
    )


def _containers_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        children: Any = value.values()
    elif isinstance(value, list):
        children = value
    else:
        return []
    return [child for child in children if isinstance(child, dict | list)]
