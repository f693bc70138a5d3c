"""Bytes of a JSON file to an object, refusing what readers of JSON do not agree on.

Owns: what is accepted as JSON, whoever wrote the bytes.
Does not know: where the bytes came from, nor what fields mean. No torch: the API process reads
the configurations of routers.
"""

import json
from collections import Counter

from motet.adapters.roots import quote
from motet.core.errors import AdapterError


def parse_object(content: bytes, name: str, code: str = "invalid_adapter") -> dict[str, object]:
    """A JSON object without repeated keys and without NaN or Infinity.

    Raises:
        AdapterError: with this `code`, and a message that begins with `name`.
    """
    try:
        parsed = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except RecursionError:
        raise AdapterError(f"{name} is nested too deeply.", code=code) from None
    except ValueError as error:  # bad JSON, bad UTF-8, repeated keys, integers of absurd length
        raise AdapterError(
            f"{name} is not valid JSON: {quote(str(error))}. Save the adapter again.", code=code
        ) from None
    if not isinstance(parsed, dict):
        raise AdapterError(f"{name} holds a {type(parsed).__name__}, not an object.", code=code)
    return parsed


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {quote(repeated)} is given more than once")
    return unique


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")
