"""What models say of themselves in JSON schemas beyond what their types say.

Owns: the schemas of objects whose nulls are dropped before they are read, and of numbers above 0.
Does not know: any model, nor the document that the schemas go into (`openapi/`).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

ABOVE_ZERO: Json = {"exclusiveMinimum": 0}


def nulls_are_absent(schema: Json) -> None:
    """Let whatever may be absent be null, in place: for the `json_schema_extra` of a model.

    What there is not may be null as well. That is not said: tools take it for leave to send it.

    Args:
        schema: of an object.
    """
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if name not in required:
            schema["properties"][name] = _nullable(field)


def _nullable(field: Json) -> Json:
    null = {"type": "null"}
    outer: Json = {key: field[key] for key in ("default", "description") if key in field}
    inner = {key: value for key, value in field.items() if key not in outer}
    if not inner or null in inner.get("anyOf", ()):
        return field
    return {"anyOf": [inner, null], **outer}
