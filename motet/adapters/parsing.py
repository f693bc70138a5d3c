"""Bytes of an adapter's files to plain values: strict JSON, and safetensors.

Owns: what is accepted as JSON and as a safetensors file, whoever wrote the bytes.
Does not know: where the bytes came from, nor what fields and tensors mean.
"""

import json
from collections import Counter

import safetensors.torch
from torch import Tensor

from motet.adapters.roots import quote
from motet.core.errors import AdapterError

MAX_HEADER_BYTES = 16 << 20

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian
_DTYPES = ("F32", "F16", "BF16")


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


def parse_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU: float32, float16 or bfloat16.

    The header is read here first, for what the library does not refuse: a huge header, a tensor
    that is named twice (readers differ on which one counts), and other dtypes. The library then
    checks offsets and sizes, and makes the tensors.

    Raises:
        AdapterError: "corrupt_adapter", or "unsupported_adapter" for another dtype.
    """
    for tensor_name, entry in _read_header(content, name).items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if tensor_name != "__metadata__" and dtype not in _DTYPES:
            raise AdapterError(
                f"The tensor {quote(tensor_name)} has dtype {quote(str(dtype))}; expected one of "
                f"{', '.join(_DTYPES)}. Save the adapter in float32, float16 or bfloat16.",
                code="unsupported_adapter",
            )
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except Exception as error:  # the bytes may be hostile: whatever it raises means the same
        raise _corrupt(name, str(error)) from None
    return tensors


def _read_header(content: bytes, name: str) -> dict[str, object]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > len(content) - _LENGTH_BYTES:
        raise _corrupt(name, f"the header should have {length} bytes, the file has {len(content)}")
    if length > MAX_HEADER_BYTES:
        raise _corrupt(name, f"the header has {length} bytes, more than {MAX_HEADER_BYTES}")
    header = content[_LENGTH_BYTES : _LENGTH_BYTES + length]
    return parse_object(header, f"The header of {name}", code="corrupt_adapter")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {quote(repeated)} is given more than once")
    return unique


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")


def _corrupt(name: str, reason: str) -> AdapterError:
    return AdapterError(
        f"{name} is truncated or corrupt: {quote(reason)}. Copy or save the adapter again.",
        code="corrupt_adapter",
    )
