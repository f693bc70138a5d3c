"""Safe reading of an adapter directory: one JSON file and one safetensors file, nothing else.

Owns: which files are opened, their size limits, and that what was read is one consistent state.
Does not know: the formats of the files (`adapters/parsing.py`), nor what they mean.

Files are read into memory, not mapped: a mapped file that is truncated while in use kills the
process. Nothing is ever unpickled.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from motet.adapters.parsing import parse_object, parse_tensors
from motet.adapters.roots import confine, quote
from motet.core.errors import AdapterError
from motet.core.pacing import Pace, at_once

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 8 << 30

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The content of an adapter directory.

    Attributes:
        config: `adapter_config.json`, as parsed.
        tensors: `adapter_model.safetensors`, by name: float32, float16 or bfloat16, on the CPU.
    """

    config: Mapping[str, object]
    tensors: Mapping[str, Tensor]


def read_checkpoint(
    directory: Path,
    root: Path | None = None,
    *,
    is_resolved: bool = False,
    pace: Pace = at_once,
) -> Checkpoint:
    """Read an adapter directory.

    Args:
        directory: the adapter's directory.
        root: where symbolic links may lead; None is the directory itself.
        is_resolved: the path was resolved when it was confined to the allowed roots. A symbolic
            link in it has been put there since, and is not followed.
        pace: called between pieces of work.

    Raises:
        AdapterError: the directory or a file is missing, of another format, too large, corrupt,
            outside `root`, or was changed while it was read.
    """
    resolved = _resolve_directory(directory, root)
    if is_resolved and resolved != directory:
        raise _changed(directory)
    allowed = resolved if root is None else root
    located = _locate(resolved, allowed)
    # Both files are open before either is read, and must still be the ones at their paths
    # afterwards: a directory that is replaced meanwhile cannot give the configuration of one
    # adapter and the weights of another.
    with _RegularFile(located[0]) as config_file, _RegularFile(located[1]) as weights_file:
        config_bytes = config_file.read(MAX_CONFIG_BYTES)
        weights_bytes = weights_file.read(MAX_WEIGHTS_BYTES)
        pace()
        if _locate(resolved, allowed) != located:
            raise _changed(resolved)
        config_file.check_in_place()
        weights_file.check_in_place()
    config = parse_object(config_bytes, CONFIG_NAME)
    tensors = parse_tensors(weights_bytes, WEIGHTS_NAME)
    pace()
    return Checkpoint(config, tensors)


def _resolve_directory(directory: Path, root: Path | None) -> Path:
    if root is not None:
        resolved = confine(directory, [root])
    else:
        try:
            resolved = directory.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise AdapterError(
                f"There is no directory at {quote(str(directory))}. Check the path.",
                code="adapter_not_found",
            ) from None
    if resolved.is_dir():
        return resolved
    if resolved.suffix in _PICKLE_SUFFIXES:
        raise _pickle_refused(resolved.name)
    raise AdapterError(
        f"{quote(resolved.name)} is not a directory. Give the directory that holds "
        f"{CONFIG_NAME} and {WEIGHTS_NAME}."
    )


def _locate(directory: Path, root: Path) -> tuple[Path, Path]:
    """The resolved paths of the two files."""
    try:
        names = set(os.listdir(directory))
    except OSError as error:
        raise AdapterError(
            f"The adapter directory cannot be listed: {error.strerror}. Check its permissions."
        ) from None
    if CONFIG_NAME not in names:
        hint = " It looks like a whole model, not an adapter." if "config.json" in names else ""
        raise AdapterError(
            f"The directory has no {CONFIG_NAME}.{hint} Expected a LoRA adapter as PEFT saves it."
        )
    if WEIGHTS_NAME not in names:
        raise _weights_missing(names)
    return _confine_file(directory, CONFIG_NAME, root), _confine_file(directory, WEIGHTS_NAME, root)


def _confine_file(directory: Path, name: str, root: Path) -> Path:
    try:
        return confine(directory / name, [root])
    except AdapterError as error:
        # The same answer for a link that leads out and for a broken one, and no path in it:
        # neither tells what lies outside.
        raise AdapterError(
            f"{name} is a symbolic link that is broken or leads out of the allowed directory. "
            "Copy the file itself into the adapter's directory.",
            code=error.code,
        ) from None


def _weights_missing(names: set[str]) -> AdapterError:
    pickled = [name for name in sorted(names) if name.endswith(_PICKLE_SUFFIXES)]
    others = [name for name in sorted(names) if name.endswith(".safetensors")]
    if others:
        return AdapterError(
            f"The directory has no {WEIGHTS_NAME}, but {quote(others[0])}. Expected all weights "
            "in one file of that name, as PEFT saves them.",
            code="unsupported_format",
        )
    if pickled:
        # training_args.bin and the like lie beside many adapters: name the weights first.
        pickled.sort(key=lambda name: not name.startswith("adapter_model"))
        return _pickle_refused(pickled[0])
    return AdapterError(f"The directory has no {WEIGHTS_NAME}. Check that the upload finished.")


def _pickle_refused(name: str) -> AdapterError:
    return AdapterError(
        f"The weights are in {quote(name)}, a pickle, which can run code when it is read; only "
        f"{WEIGHTS_NAME} is loaded. Convert it on a machine where you trust the file: load it "
        "with PEFT and call save_pretrained(directory), which writes safetensors.",
        code="unsupported_format",
    )


def _changed(path: Path) -> AdapterError:
    return AdapterError(
        f"{quote(path.name)} was changed while it was being read. Load it again once the upload "
        "has finished.",
        code="corrupt_adapter",
    )


class _RegularFile:
    """One open descriptor on a regular file at a resolved path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # O_NOFOLLOW: the path is resolved, so a link here was put there since. O_NONBLOCK: opening
        # a named pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags)
        except OSError as error:
            raise AdapterError(
                f"{quote(path.name)} cannot be opened: {error.strerror}. Check its permissions."
            ) from None
        self._opened = os.fstat(self._fd)
        if not stat.S_ISREG(self._opened.st_mode):
            os.close(self._fd)
            raise AdapterError(f"{quote(path.name)} is not a regular file.")

    def __enter__(self) -> "_RegularFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    def read(self, max_bytes: int) -> bytes:
        """The whole content. Raises AdapterError if it is too large or changed meanwhile."""
        size = self._opened.st_size
        if size > max_bytes:
            raise AdapterError(
                f"{quote(self._path.name)} has {size} bytes; at most {max_bytes} are read."
            )
        try:
            with open(self._fd, "rb", closefd=False) as file:
                content = file.read(size + 1)
        except OSError as error:
            raise AdapterError(
                f"{quote(self._path.name)} cannot be read: {error.strerror}.",
                code="corrupt_adapter",
            ) from None
        if len(content) != size or _version(os.fstat(self._fd)) != _version(self._opened):
            raise _changed(self._path)
        return content

    def check_in_place(self) -> None:
        """Raise AdapterError unless this file, unchanged, is still what lies at its path."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError:
            raise _changed(self._path) from None
        if _version(there) != _version(self._opened):
            raise _changed(self._path)


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
