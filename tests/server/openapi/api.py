"""The published document as tests use it: with names that there are, and closed answers."""

import copy
from collections.abc import Iterator
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from motet.server.openapi.document import document

Json = dict[str, Any]

MODELS = ["tiny", "red", "mix"]  # the base model, an adapter, a routed set
ADAPTERS = ["red", "blue"]
TO_DELETE = ["new", "red@7"]
VOCAB_SIZE = 259


def api(**options: Any) -> BaseSchema:
    """The narrowed document for schemathesis. The same requests are made each time.

    The stream of events is left out, for it has no end.

    Args:
        options: of schemathesis, by the names in its configuration files.
    """
    config = SchemathesisConfig.from_dict({"seed": 1, **options})
    schema = schemathesis.openapi.from_dict(narrowed_document(), config=config)
    return schema.exclude(operation_id="events")


def narrowed_document() -> Json:
    """The document, but requests name what a test's server has: of others there are too many.

    Answers must not have keys that are not described.
    """
    narrowed = copy.deepcopy(document(is_lenient=False))
    for schema in narrowed["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
            _narrow_body(schema)
    for item in narrowed["paths"].values():
        for method, operation in item.items():
            names = TO_DELETE if method == "delete" else ADAPTERS
            operation["parameters"] = list(_parameters(operation, names))
    return narrowed


def _narrow_body(schema: Json) -> None:
    fields = schema["properties"]
    if "model" in fields and "object" not in fields:
        is_optional = "model" not in schema["required"]
        fields["model"] = {"enum": [*MODELS, None] if is_optional else MODELS}
    if "lora_path" in fields:
        fields["lora_path"] = {"enum": ADAPTERS}
    for name in {"prompt", "tokens"} & fields.keys():
        for token_ids in _lists_of_token_ids(fields[name]):
            token_ids["items"]["maximum"] = VOCAB_SIZE - 1


def _lists_of_token_ids(value: Any) -> Iterator[Json]:
    """The schemas of them, wherever they are in `value`."""
    if isinstance(value, dict):
        if value.get("items") == {"type": "integer", "minimum": 0}:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _lists_of_token_ids(each)


def _parameters(operation: Json, names: list[str]) -> Iterator[Json]:
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "x-request-timeout":  # deadlines have tests of their own
            continue
        if parameter["name"] in ("model", "name"):
            parameter["schema"]["enum"] = names
        yield parameter
