"""Regular expressions that come with an adapter, matched in linear time.

Owns: PEFT's rules for `rank_pattern` and `alpha_pattern`, and what of a pattern is accepted.
Does not know: what a pattern chooses.

A checkpoint's patterns are foreign code of a sort: Python's `re` backtracks, and `(\\w+\\.?)+x`
keeps it busy for ever on the name of one module. Pydantic's engine, Rust's `regex`, takes time
linear in the text and refuses a pattern that grows too large. It has no look-around and no
back-references. Patterns that the two engines might read differently are refused.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic_core import SchemaError, SchemaValidator, core_schema

from motet.adapters.roots import quote
from motet.core.errors import AdapterError

_MAX_PATTERN_CHARS = 512
_MAX_EXPRESSIONS = 256  # besides plain names, of which there may be one for each projection
# Without quantifiers and alternatives there is nothing to backtrack over.
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.-]+\$?")
# Set operations and nested sets, which Rust has and Python only warns about; inline flags.
_AMBIGUOUS = re.compile(r"&&|--|~~|\[[^\]]*\[|\(\?[a-zA-Z-]+\)")

_Value = TypeVar("_Value")


def first_matches(
    patterns: Mapping[str, _Value], paths: Sequence[str], field: str
) -> dict[str, _Value]:
    """The value that a table of patterns gives to each module path that one of them matches.

    PEFT's rule (`get_pattern_key`): a pattern matches the whole path, or its end after a dot; the
    first in the file's order wins.

    Raises:
        AdapterError: a pattern is not accepted. The message names `field` and the pattern.
    """
    plain = {pattern for pattern in patterns if _PLAIN.fullmatch(pattern)}
    if len(patterns) - len(plain) > _MAX_EXPRESSIONS:
        raise AdapterError(
            f"{field} has {len(patterns) - len(plain)} regular expressions; at most "
            f"{_MAX_EXPRESSIONS} are read. Use plain module names."
        )
    found: dict[str, _Value] = {}
    waiting = list(paths)
    for pattern, value in patterns.items():
        if pattern in plain:
            matched = _plain_matches(pattern, waiting)
        else:
            expression = _compile(rf"^(?:.*\.)?(?:{pattern})$", pattern, field)
            matched = [path for path in waiting if expression.isinstance_python(path)]
        found.update(dict.fromkeys(matched, value))
        waiting = [path for path in waiting if path not in found]
    return found


def full_matches(pattern: str, paths: Sequence[str], field: str) -> list[str]:
    """The paths that a pattern matches as a whole. Raises AdapterError as `first_matches` does."""
    expression = _compile(rf"^(?:{pattern})$", pattern, field)
    return [path for path in paths if expression.isinstance_python(path)]


def _plain_matches(pattern: str, paths: Sequence[str]) -> list[str]:
    expression = re.compile(rf"(?:.*\.)?(?:{pattern})$")
    return [path for path in paths if expression.match(path)]


def _compile(anchored: str, pattern: str, field: str) -> SchemaValidator:
    try:
        if len(pattern) > _MAX_PATTERN_CHARS:
            raise ValueError(f"it is longer than {_MAX_PATTERN_CHARS} characters")
        if _AMBIGUOUS.search(pattern):
            raise ValueError("nested sets, set operations and inline flags are not supported")
        re.compile(anchored)  # what PEFT could not read either
        return SchemaValidator(core_schema.str_schema(pattern=anchored, regex_engine="rust-regex"))
    except (SchemaError, ValueError, re.error, OverflowError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise AdapterError(
            f"{field} has the pattern {quote(pattern)}, which cannot be used: {quote(reason)}. "
            "Use module names, or expressions without look-around and back-references."
        ) from None
