"""The published document as tests use it: with names that there are, and closed answers."""

import copy
from collections.abc import Iterator
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from motet.server.openapi.document import document

Json = dict[str, Any]

MODELS = ["tiny", "red"]
ADAPTERS = ["red", "blue"]
VOCAB_SIZE = 259


def closed(schemas: Json) -> Json:
    """Schemas whose objects have no keys beside those described: an answer must not have more."""
    schemas = copy.deepcopy(schemas)
    for schema in schemas.values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return schemas


def narrowed_document() -> Json:
    """The document, but requests name what a test's server has: of others there are too many."""
    narrowed = copy.deepcopy(document(is_lenient=False))
    schemas = closed(narrowed["components"]["schemas"])
    for schema in schemas.values():
        if "model" in schema.get("properties", {}) and "object" not in schema["properties"]:
            is_optional = "model" not in schema["required"]
            schema["properties"]["model"] = {"enum": [*MODELS, None] if is_optional else MODELS}
        if "lora_path" in schema.get("properties", {}):
            schema["properties"]["lora_path"] = {"enum": ADAPTERS}
    for schema in schemas.values():
        for name in {"prompt", "tokens"} & schema.get("properties", {}).keys():
            for token_ids in _lists_of_token_ids(schema["properties"][name]):
                token_ids["items"]["maximum"] = VOCAB_SIZE - 1
    narrowed["components"]["schemas"] = schemas
    for item in narrowed["paths"].values():
        for operation in item.values():
            operation["parameters"] = [
                parameter
                for parameter in operation.get("parameters", ())
                if parameter["name"] != "x-request-timeout"  # deadlines have tests of their own
            ]
    return narrowed


def _lists_of_token_ids(value: Any) -> Iterator[Json]:
    """The schemas of them, wherever they are in `value`."""
    if isinstance(value, dict):
        if value.get("items") == {"type": "integer", "minimum": 0}:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _lists_of_token_ids(each)


def api(**options: Any) -> BaseSchema:
    """The narrowed document for schemathesis. The same requests are made each time.

    Args:
        options: of schemathesis, by the names in its configuration files.
    """
    config = SchemathesisConfig.from_dict({"seed": 1, **options})
    return schemathesis.openapi.from_dict(narrowed_document(), config=config)
