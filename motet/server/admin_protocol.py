"""The bodies of the admin API for adapters: fields, types and bounds.

Owns: their strict pydantic models.
Does not know: how an error is said (`parsing.py`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from motet.server.field_types import PartWeights
from motet.server.protocol import AdapterName

MAX_TARGETS = 16
MAX_WEIGHT = 1e9  # so that their sum is a finite number

_VERSION = re.compile(r"v?([1-9][0-9]{0,8})")


def _numbered(value: Any) -> Any:
    """{"3": 0.95, "v4": 0.05} with numbers as keys."""
    if not isinstance(value, dict):
        raise PydanticCustomError("weights_type", "should be an object: a weight by version")
    numbered: dict[int, Any] = {}
    for key, weight in value.items():
        match = _VERSION.fullmatch(key)
        if match is None or int(match[1]) in numbered:
            raise PydanticCustomError("weights_key", "should have each version once, such as '3'")
        numbered[int(match[1])] = weight
    return numbered


_Weights = Annotated[
    dict[Annotated[str, Field(pattern=rf"^{_VERSION.pattern}$")], Annotated[float, Field(gt=0)]],
    Field(min_length=1, max_length=MAX_TARGETS, json_schema_extra={"additionalProperties": False}),
]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class SourceBody(_Body):
    """Where the files are: a directory on the server, a Hub repository, or an S3 prefix."""

    type: Literal["path", "hf", "s3"]
    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class CompositionBody(_Body):
    """No files: adapters that the server knows, with the factors on their deltas."""

    type: Literal["composition"]
    parts: PartWeights


# Tags with brackets are left out of the places that errors name.
_Source = Annotated[
    Annotated[SourceBody, Tag("[files]")] | Annotated[CompositionBody, Tag("[composition]")],
    Discriminator(lambda value: "[composition]" if _is_composition(value) else "[files]"),
]


def _is_composition(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "composition"


class CreateAdapterRequest(_Body):
    """POST /admin/v1/adapters."""

    name: AdapterName
    source: _Source
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    pin: bool | None = None  # None: as it was under this name
    warm: bool = False
    wait: bool = False
    activate: bool = True


class AliasRequest(_Body):
    """PUT /admin/v1/adapters/{name}/alias."""

    weights: Annotated[
        dict[int, Annotated[float, Field(gt=0, le=MAX_WEIGHT)]],
        Field(min_length=1, max_length=MAX_TARGETS),
        BeforeValidator(_numbered, json_schema_input_type=_Weights),
    ]
    if_match: Annotated[str, Field(max_length=64)] | None = None


class RollbackRequest(_Body):
    """POST /admin/v1/adapters/{name}:rollback."""

    if_match: Annotated[str, Field(max_length=64)] | None = None
