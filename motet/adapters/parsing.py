"""Bytes of a safetensors file to tensors.

Owns: what is accepted as a safetensors file, whoever wrote the bytes.
Does not know: where the bytes came from, nor what tensors mean.
"""

import safetensors.torch
from torch import Tensor

from motet.adapters.roots import quote
from motet.adapters.strict_json import parse_object
from motet.core.errors import AdapterError

MAX_HEADER_BYTES = 16 << 20

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian
_DTYPES = ("F32", "F16", "BF16")


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


def _corrupt(name: str, reason: str) -> AdapterError:
    return AdapterError(
        f"{name} is truncated or corrupt: {quote(reason)}. Copy or save the adapter again.",
        code="corrupt_adapter",
    )
