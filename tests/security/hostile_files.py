"""What an attacker puts into the directory of an adapter."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adapters.make import AdapterSpec, write_lora
from tests.security.real_server import SHAPE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Touch:
    """Pickled, it makes a file when it is read."""

    canary: str

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def write_good(directory: Path, **spec: Any) -> Path:
    """An adapter that the real server loads."""
    return write_lora(directory, SHAPE, AdapterSpec(**{"rank": 2, **spec}))


def write_config(directory: Path, **changes: object) -> Path:
    """An adapter with other fields in its configuration."""
    write_good(directory)
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(config | changes))
    return directory


def write_weights(directory: Path, content: bytes) -> Path:
    """An adapter whose weights are these bytes."""
    write_good(directory)
    (directory / WEIGHTS).write_bytes(content)
    return directory


def safetensors_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header, whatever its own length says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
