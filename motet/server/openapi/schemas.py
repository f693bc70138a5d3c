"""The JSON schemas of all types that the tables of operations name.

Owns: where the document keeps them, how they refer to each other, and what a body may hold beside
what its model reads.
Does not know: which operations there are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from motet.server.json_schema import nulls_are_absent
from motet.server.openapi.operation import Body, Json, Operation

_PLACE = "#/components/schemas/"


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class Schemas:
    """Schemas by type, and the components that they refer to."""

    def __init__(self, references: dict[int, Json], components: dict[str, Json]) -> None:
        self._references = references
        self.components = components

    @classmethod
    def of(
        cls, operations: Sequence[Operation], others: Sequence[Any], *, is_lenient: bool
    ) -> Self:
        """Those of all types that `operations` name, and of others.

        Args:
            is_lenient: bodies for which it is allowed may hold anything beside what is known.
        """
        # By identity, for annotated types may have no hash.
        types = {id(each): each for each in (*_types(operations), *others)}
        adapters = [(key, "validation", TypeAdapter(each)) for key, each in types.items()]
        found, definitions = TypeAdapter.json_schemas(
            adapters,  # type: ignore[arg-type]  # a list is invariant, and the mode a literal
            ref_template=f"{_PLACE}{{model}}",
            schema_generator=_Generator,
        )
        references = {key: schema for (key, _), schema in found.items()}
        schemas = cls(references, definitions.get("$defs", {}))
        for each in schemas.components.values():
            _shorten(each)
        for operation in operations:
            for body in operation.bodies:
                schemas._complete(body, is_lenient=is_lenient and body.may_be_lenient)
        return schemas

    def reference(self, described: Any) -> Json:
        """A reference to the schema of a type, or the schema itself if it has no name."""
        return self._references[id(described)]

    def _complete(self, body: Body, *, is_lenient: bool) -> None:
        """Add to the schema of a body's model what is dropped before the model sees it."""
        name = self.reference(body.model)["$ref"].removeprefix(_PLACE)
        schema = self.components[name]
        if "required" in schema:
            schema["required"] = [each for each in schema["required"] if each not in body.optional]
        for field, values in body.idle.items():
            if field not in schema["properties"] and values != ():
                schema["properties"][field] = _idle(values)
        if body.takes_nulls:
            nulls_are_absent(schema)
        if is_lenient or "additionalProperties" not in schema:
            schema["additionalProperties"] = True


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    for operation in operations:
        for body in operation.bodies:
            yield body.model
        for answer in operation.answers:
            yield from (each for each in (answer.json, answer.event) if each is not None)


def _idle(values: tuple[Any, ...] | None) -> Json:
    if values is None:
        return {"description": "Without effect."}
    distinct = [value for index, value in enumerate(values) if value not in values[:index]]
    return {"enum": copy.deepcopy(distinct), "description": "Without effect at these values."}


def _shorten(schema: Json) -> None:
    """Keep the first paragraph of a description: what follows is for readers of the source."""
    if "description" in schema:
        schema["description"] = schema["description"].partition("\n\n")[0].replace("\n", " ")
    schema.pop("title", None)
