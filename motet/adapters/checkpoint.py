"""Reading of an adapter directory: one JSON file and one safetensors file, nothing else.

Owns: which files an adapter is made of, and their size limits. Nothing is ever unpickled.
Does not know: how files are read safely (`adapters/files.py`), their formats
(`adapters/parsing.py`), nor what they mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from motet.adapters.files import names_in, read_together, resolve
from motet.adapters.parsing import parse_tensors
from motet.adapters.roots import quote
from motet.adapters.strict_json import parse_object
from motet.adapters.unconverted import refuse_unconverted
from motet.core.errors import AdapterError
from motet.core.pacing import Pace, at_once

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 8 << 30

_WHOLE_MODEL = (
    " It looks like a whole model, not an adapter (a MeteoRA checkpoint is converted by `motet "
    "import-router meteora`)."
)
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
    resolved = resolve(directory, root, is_resolved=is_resolved)
    if not resolved.is_dir():
        raise _not_a_directory(resolved)
    allowed = resolved if root is None else root
    _check_names(resolved, allowed)
    limits = {CONFIG_NAME: MAX_CONFIG_BYTES, WEIGHTS_NAME: MAX_WEIGHTS_BYTES}
    config_bytes, weights_bytes = read_together(resolved, allowed, limits)
    pace()
    config = parse_object(config_bytes, CONFIG_NAME)
    tensors = parse_tensors(weights_bytes, WEIGHTS_NAME)
    pace()
    return Checkpoint(config, tensors)


def _not_a_directory(path: Path) -> AdapterError:
    if path.suffix in _PICKLE_SUFFIXES:
        return _pickle_refused(path.name)
    return AdapterError(
        f"{quote(path.name)} is not a directory. Give the directory that holds "
        f"{CONFIG_NAME} and {WEIGHTS_NAME}."
    )


def _check_names(directory: Path, root: Path) -> None:
    """Both files are there, by name."""
    names = names_in(directory)
    if CONFIG_NAME not in names:
        hint = _WHOLE_MODEL if "config.json" in names else ""
        raise AdapterError(
            f"The directory has no {CONFIG_NAME}.{hint} Expected a LoRA adapter as PEFT saves it."
        )
    if WEIGHTS_NAME not in names:
        # What the configuration says it is may be the better answer: read it alone.
        (config,) = read_together(directory, root, {CONFIG_NAME: MAX_CONFIG_BYTES})
        refuse_unconverted(parse_object(config, CONFIG_NAME))
        raise _weights_missing(names)


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
