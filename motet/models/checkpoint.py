"""The safetensors files of a model directory, as one set of named tensors.

Owns: finding the files, the index of a sharded checkpoint, and what is not read from a directory.
Does not know: which tensors a decoder wants (`weights.py`). Nothing is ever unpickled.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from motet.core.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
_PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


class Checkpoint:
    """The tensors of a model directory, memory-mapped; use it as a context manager.

    Raises:
        ModelError: there are no safetensors files, or they are not whole.
    """

    def __init__(self, model_dir: Path) -> None:
        self._dir = model_dir
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        try:
            self._open_all()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file_of.clear()
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor on the CPU, in the file's dtype; it may lie in the mapped file.

        Raises:
            ModelError: its shape is another, or it is not of a plain floating-point dtype.
        """
        view = self._file_of[name].get_slice(name)
        found, dtype = tuple(view.get_shape()), view.get_dtype()
        if found != shape:
            raise ModelError(
                f"Tensor {name!r} in {self._dir} has the shape {list(found)}, but config.json "
                f"makes it {list(shape)}. The weights and the config are not of one model."
            )
        if dtype not in _FLOAT_DTYPES:
            raise ModelError(
                f"Tensor {name!r} in {self._dir} is of the dtype {dtype}, expected one of "
                f"{', '.join(_FLOAT_DTYPES)}. Quantized checkpoints are not supported."
            )
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def _open_all(self) -> None:
        if (self._dir / SINGLE_FILE).is_file():
            file = self._open(SINGLE_FILE)
            self._file_of = dict.fromkeys(file.keys(), file)
        elif (self._dir / INDEX_FILE).is_file():
            self._open_shards()
        else:
            raise _no_weights(self._dir)

    def _open_shards(self) -> None:
        shard_of = _read_index(self._dir / INDEX_FILE)
        for shard in sorted(set(shard_of.values())):
            file = self._open(shard)
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                if shard_of.setdefault(name, shard) == shard:
                    self._file_of[name] = file
        if absent := shard_of.keys() - self._file_of.keys():
            raise ModelError(
                f"{INDEX_FILE} in {self._dir} promises tensors that its files do not have: "
                f"{some_of(absent)}. Download the checkpoint again."
            )

    def _open(self, name: str) -> Any:
        path = self._dir / name
        if not path.is_file():
            raise ModelError(f"{self._dir} lacks {name}, which {INDEX_FILE} names.")
        try:
            return self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is not a whole safetensors file: {error}. Download it again."
            ) from error


def some_of(names: set[str]) -> str:
    """The first few names, and how many more there are."""
    shown = sorted(names)[:8]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _read_index(path: Path) -> dict[str, str]:
    """The file of each tensor. A file's name may not lead out of the directory."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise ModelError(f"{path} has no object 'weight_map' from tensor names to file names.")
    for shard in weight_map.values():
        if (
            not isinstance(shard, str)
            or Path(shard).name != shard
            or "\\" in shard
            or not shard.endswith(".safetensors")
        ):
            raise ModelError(
                f"{path} names the file {shard!r}, expected the bare name of a .safetensors file "
                "beside it."
            )
    return weight_map


def _no_weights(model_dir: Path) -> ModelError:
    pickled = [p.name for p in model_dir.iterdir() if p.suffix in _PICKLED_SUFFIXES]
    if pickled:
        return ModelError(
            f"{model_dir} has its weights only in pickled files ({some_of(set(pickled))}), which "
            "can run code when they are read. Expected *.safetensors: take the model's safetensors "
            "files, or convert it with transformers' save_pretrained."
        )
    return ModelError(f"{model_dir} has neither {SINGLE_FILE} nor {INDEX_FILE}.")
