"""The files that a router is converted from.

Owns: finding a checkpoint's safetensors files, one or many, and reading parts of their tensors.
Does not know: what a tensor's name means.

Files are mapped, not read: a MeteoRA checkpoint is a whole model, of which little is needed. This
is a command that its user runs on files of their own, and no server depends on it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from motet.adapters.checkpoint import CONFIG_NAME, MAX_CONFIG_BYTES
from motet.adapters.files import read_together, resolve
from motet.adapters.roots import quote
from motet.adapters.strict_json import parse_object
from motet.core.errors import AdapterError

_ALL = slice(None)
_DTYPES = ("F32", "F16", "BF16")
_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class TensorFiles:
    """The tensors of one or several safetensors files, by name.

    Attributes:
        names: of all tensors.
    """

    def __init__(self, files: Mapping[str, safe_open]) -> None:
        self._files = files

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix, without reading it. Raises AdapterError if it is none."""
        return self._matrix(name)[1]

    def read(self, name: str, rows: slice = _ALL, columns: slice = _ALL) -> Tensor:
        """A matrix, or a part of one, in memory of its own. Raises AdapterError as `shape` does."""
        tensor: Tensor = self._matrix(name)[0][rows, columns]
        return tensor.clone()

    def _matrix(self, name: str) -> tuple[Any, tuple[int, int]]:
        stored: Any = self._files[name].get_slice(name)  # type: ignore[no-untyped-call]
        shape, dtype = stored.get_shape(), stored.get_dtype()
        if dtype not in _DTYPES or len(shape) != 2:
            raise AdapterError(
                f"The tensor {quote(name)} is of dtype {dtype} and shape {shape}; expected a "
                f"matrix of {', '.join(_DTYPES)}.",
                code="unsupported_adapter",
            )
        return stored, (shape[0], shape[1])


@contextmanager
def open_tensors(source: Path) -> Iterator[TensorFiles]:
    """Open a safetensors file, or all of a directory's.

    Raises:
        AdapterError: there are none, shards are missing, or a file is corrupt.
    """
    paths = _find(source)
    files: dict[str, safe_open] = {}
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (SafetensorError, OSError) as error:
                raise AdapterError(
                    f"{quote(path.name)} cannot be read: {quote(str(error))}. Copy it again.",
                    code="corrupt_adapter",
                ) from None
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                if name in files:
                    raise AdapterError(f"The tensor {quote(name)} is in two files. Keep one.")
                files[name] = file
        _check_complete(source, files)
        yield TensorFiles(files)


def read_config(source: Path) -> dict[str, object]:
    """`adapter_config.json` of a directory, as parsed. Raises AdapterError if it is not there."""
    directory = resolve(source, None)
    if not (directory / CONFIG_NAME).exists():
        raise AdapterError(f"{quote(str(source))} has no {CONFIG_NAME}. Check the path.")
    limits = {CONFIG_NAME: MAX_CONFIG_BYTES}
    return parse_object(read_together(directory, directory, limits)[0], CONFIG_NAME)


def _find(source: Path) -> list[Path]:
    resolved = resolve(source, None)
    everything = sorted(resolved.iterdir()) if resolved.is_dir() else [resolved]
    found = [path for path in everything if path.suffix == ".safetensors"]
    if found:
        return found
    pickled = [path.name for path in everything if path.suffix in _PICKLE_SUFFIXES]
    if not pickled:
        raise AdapterError(f"There is no .safetensors file at {quote(str(source))}.")
    # Of several, the one that holds the weights: training leaves others.
    pickled.sort(key=lambda name: "model" not in name)
    target = Path(pickled[0]).with_suffix(".safetensors").name
    raise AdapterError(
        f"The weights are in {quote(pickled[0])}, a pickle, which can run code when it is read, "
        f"and never is here. Convert it where you trust it: torch.load({pickled[0]!r}, "
        "weights_only=True, map_location='cpu'), then safetensors.torch.save_file of "
        f"{{name: tensor.contiguous()}} to {target!r}, and point at that.",
        code="unsupported_format",
    )


def _check_complete(source: Path, files: Mapping[str, safe_open]) -> None:
    """Where an index names the tensors of all shards, all are there."""
    directory = resolve(source, None)
    if not directory.is_dir():
        return
    for path in sorted(directory.glob(f"*{_INDEX_SUFFIX}")):
        (content,) = read_together(directory, directory, {path.name: _MAX_INDEX_BYTES})
        weight_map = parse_object(content, path.name).get("weight_map")
        if not isinstance(weight_map, dict):
            raise AdapterError(f"{quote(path.name)} has no weight_map.", code="corrupt_adapter")
        missing = [name for name in weight_map if name not in files]
        if missing:
            raise AdapterError(
                f"{quote(path.name)} names {len(missing)} tensors that are in no file beside it, "
                f"such as {quote(missing[0])}. Check that all shards were copied.",
                code="corrupt_adapter",
            )
