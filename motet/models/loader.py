"""From what a user names as the model to a decoder on a device.

Owns: where a model's directory is found or fetched, and the choice of its dtype.
Does not know: how the default model and GGUF files become directories (`default_model.py`).
"""

import re
from pathlib import Path

import torch

from motet.core.errors import ConfigError, ModelError
from motet.models.checkpoint import Checkpoint
from motet.models.config import load_config
from motet.models.decoder import Decoder
from motet.models.default_model import default_model_dir, gguf_as_hf_dir
from motet.models.weights import read_weights

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_STORAGES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.jinja", "merges.txt"]


def resolve_model_dir(model: str | None) -> Path:
    """The Hugging Face directory of a model.

    Args:
        model: a directory, a `.gguf` file, or a hub id; None is the embedded default model.

    Raises:
        ModelError: there is none, or it cannot be fetched or converted.
    """
    if model is None:
        return default_model_dir()
    path = Path(model).expanduser()
    if model and path.is_dir():  # an empty path would be the working directory
        return path
    if path.suffix == ".gguf":
        return gguf_as_hf_dir(path)
    return _fetch_from_hub(model)


def resolve_dtype(name: str | None, device: torch.device, model_dir: Path) -> torch.dtype:
    """The dtype of the weights and the pool.

    Args:
        name: "float32", "bfloat16" or "float16"; None is float32 on a CPU and elsewhere the
            dtype that the checkpoint names, or bfloat16 where it names none.
        device: where the model runs.
        model_dir: the model's directory.

    Raises:
        ConfigError: the name is another.
        ModelError: the model's config cannot be read.
    """
    if name is None:
        if device.type == "cpu":
            return torch.float32
        return _DTYPES.get(load_config(model_dir).dtype or "", torch.bfloat16)
    if name not in _DTYPES:
        raise ConfigError(f"dtype is {name!r}, expected one of {', '.join(_DTYPES)}", param="dtype")
    return _DTYPES[name]


def resolve_storage(name: str | None, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype that the weight matrices are stored in.

    Args:
        name: "float32", "bfloat16" or "int8"; None is the model's dtype.
        device: where the model runs.
        dtype: what it computes in.

    Raises:
        ConfigError: the name is another, or this device and dtype have no such storage.
    """
    if name is None:
        return dtype
    if name not in _STORAGES:
        raise ConfigError(
            f"weights is {name!r}, expected one of {', '.join(_STORAGES)}", param="weights"
        )
    if _STORAGES[name] != dtype and (device.type != "cpu" or dtype != torch.float32):
        raise ConfigError(
            f"weights in {name} are for a CPU that computes in float32, and this model runs in "
            f"{str(dtype).removeprefix('torch.')} on {device.type}; leave --weights out, or use "
            "--device cpu --dtype float32",
            param="weights",
        )
    return _STORAGES[name]


def load_decoder(
    model_dir: Path, device: torch.device, dtype: torch.dtype, storage: torch.dtype | None = None
) -> Decoder:
    """Read config and weights of a Hugging Face directory onto a device.

    Args:
        model_dir: the directory.
        device: where the model runs.
        dtype: what it computes in.
        storage: what its matrices are stored in; None is `dtype`.

    Raises:
        ModelError: the architecture, an option or a tensor is not what the decoder supports.
    """
    config = load_config(model_dir)
    with Checkpoint(model_dir) as checkpoint:
        return Decoder(config, read_weights(config, checkpoint, device, dtype, storage))


def _fetch_from_hub(model: str) -> Path:
    if _HUB_ID.fullmatch(model) is None:
        raise ModelError(
            f"There is no directory or .gguf file {model!r}, and it is no hub id of the form "
            "'organization/name'."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except Exception as error:
        # The client raises a dozen unrelated types, its transport's among them.
        raise ModelError(
            f"There is no directory {model!r}, and the hub did not give a model of that name: "
            f"{type(error).__name__}: {error}. Name a directory that exists, or check the network "
            "and, for a gated model, the hub token."
        ) from error
