"""The published document as tests use it: with names that there are, and closed answers."""

import copy
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from motet.server.openapi.document import document

Json = dict[str, Any]

MODELS = ["tiny", "red"]
ADAPTERS = ["red", "blue", "nope"]


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
    narrowed["components"]["schemas"] = schemas
    return narrowed


def api(**options: Any) -> BaseSchema:
    """The narrowed document for schemathesis. The same requests are made each time.

    Args:
        options: of schemathesis, by the names in its configuration files.
    """
    config = SchemathesisConfig.from_dict({"seed": 1, **options})
    return schemathesis.openapi.from_dict(narrowed_document(), config=config)
