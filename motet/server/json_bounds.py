"""How deep a JSON body may be, and of how many parts.

Owns: these bounds. Whatever walks a value further on may then use recursion, and takes no time
that others would notice: a few MiB of empty lists are a million objects to make and to check, and
the event loop waits for that.
Does not know: fields.

Both are told by the body's structure, which is much quicker to get than its values.
"""

from __future__ import annotations

from motet.server.errors import bad_request

MAX_JSON_DEPTH = 64
MAX_JSON_PARTS = 1 << 16

_TO_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{}:"))


def structure_of(body: bytes) -> bytes:
    """The brackets and colons of JSON outside its strings; braces become brackets."""
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(without_escapes.split(b'"')[::2])
    return outside_strings.translate(_TO_LISTS, _NO_STRUCTURE)


def require_few_parts(structure: bytes) -> None:
    """Raises MotetError (400 `invalid_json`) for too many objects, lists and fields together."""
    if structure.count(b"[") + structure.count(b":") > MAX_JSON_PARTS:
        raise bad_request(
            f"The body has more than {MAX_JSON_PARTS} objects, lists and fields. Send fewer.",
            None,
            code="invalid_json",
        )


def require_shallow(structure: bytes) -> None:
    """Raises MotetError (400 `invalid_json`) if valid JSON is nested too deep."""
    left = structure.translate(None, b":")
    for _ in range(MAX_JSON_DEPTH):
        if not left:
            return
        left = left.replace(b"[]", b"")  # what is innermost
    if left:
        raise bad_request(
            f"The body nests objects and lists more than {MAX_JSON_DEPTH} deep.",
            None,
            code="invalid_json",
        )
