"""Types of request fields that need more than a bound, and the caps on what one request may ask.

Owns: how such a field is read, and what is said when it is wrong.
Does not know: which endpoint has which field (`protocol.py`), nor the model's vocabulary.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from motet.core.composition import MAX_ABS_WEIGHT, MAX_PARTS

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
MAX_ABS_LOGIT_BIAS = 100
MAX_CACHE_SALT_CHARS = 256
MAX_USER_CHARS = 512
MAX_ABS_PRIORITY = 2**31 - 1
MAX_MODEL_CHARS = 256

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def _biases(value: Any) -> Any:
    """OpenAI's map of token ids, written as strings, to what is added to their logits."""
    if not isinstance(value, dict):
        raise PydanticCustomError("bias_type", "should be an object of token ids and numbers")
    if len(value) > MAX_LOGIT_BIASES:
        raise PydanticCustomError(
            "too_many_biases", f"should hold at most {MAX_LOGIT_BIASES} tokens, not {len(value)}"
        )
    for key, bias in value.items():
        if not _TOKEN_ID.fullmatch(key):
            raise PydanticCustomError(
                "bias_key", 'should have token ids as its keys, such as "50256"'
            )
        if type(bias) not in (int, float):  # a bool is an int to isinstance
            raise PydanticCustomError("bias_type", "should have numbers as its values")
        if not abs(bias) <= MAX_ABS_LOGIT_BIAS:  # neither is NaN
            raise PydanticCustomError(
                "bias_range",
                f"should have values from -{MAX_ABS_LOGIT_BIAS} to {MAX_ABS_LOGIT_BIAS}",
            )
    return {int(key): float(bias) for key, bias in value.items()}


def _part_weights(value: Any) -> Any:
    """Names of adapters, and the factors on their deltas."""
    if not isinstance(value, dict):
        raise PydanticCustomError("parts_type", "should be an object of adapters and weights")
    if not 1 <= len(value) <= MAX_PARTS:
        raise PydanticCustomError(
            "number_of_parts", f"should have 1 to {MAX_PARTS} adapters, not {len(value)}"
        )
    for name, weight in value.items():
        if not 1 <= len(name) <= MAX_MODEL_CHARS:
            raise PydanticCustomError(
                "part_name", f"should have names of 1 to {MAX_MODEL_CHARS} characters as its keys"
            )
        if type(weight) not in (int, float):  # a bool is an int to isinstance
            raise PydanticCustomError("weight_type", "should have numbers as its values")
        if not 0 < abs(weight) <= MAX_ABS_WEIGHT:  # neither is NaN
            raise PydanticCustomError(
                "weight_range",
                f"should have weights from -{MAX_ABS_WEIGHT:g} to {MAX_ABS_WEIGHT:g}, but not 0",
            )
    return {name: float(weight) for name, weight in value.items()}


ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]
PartWeights = Annotated[
    dict[str, float],
    BeforeValidator(
        _part_weights,
        json_schema_input_type=Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)],
                Annotated[
                    float,
                    Field(
                        ge=-MAX_ABS_WEIGHT,
                        le=MAX_ABS_WEIGHT,
                        json_schema_extra={"not": {"const": 0}},
                    ),
                ],
            ],
            Field(min_length=1, max_length=MAX_PARTS),
        ],
    ),
]
LogitBias = Annotated[
    dict[int, float],
    BeforeValidator(
        _biases,
        json_schema_input_type=Annotated[
            dict[
                Annotated[str, Field(pattern=rf"^({_TOKEN_ID.pattern})$")],
                Annotated[float, Field(ge=-MAX_ABS_LOGIT_BIAS, le=MAX_ABS_LOGIT_BIAS)],
            ],
            Field(max_length=MAX_LOGIT_BIASES, json_schema_extra={"additionalProperties": False}),
        ],
    ),
]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=MAX_CACHE_SALT_CHARS)]
Priority = Annotated[int, Field(ge=-MAX_ABS_PRIORITY, le=MAX_ABS_PRIORITY)]
User = Annotated[str, Field(max_length=MAX_USER_CHARS)]


class TemplateKwargs(BaseModel):
    """What a request may tell a chat template, by the names that published templates read.

    Nothing else passes: a template also reads `messages`, `tools` and its special tokens by name,
    and what it is given may replace them.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    enable_thinking: bool | None = None
    thinking: bool | None = None
    preserve_thinking: bool | None = None
    clear_thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    date_string: Annotated[str, Field(max_length=64)] | None = None
