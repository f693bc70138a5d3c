"""Where a training run stands, on disk: so that it can end and go on.

Owns: the two files of a checkpoint, and that one is of the run that asks for it.
Does not know: what is trained.

`checkpoint.safetensors` holds gates and the optimizer's state, and in its header the step and a
description of the run, so both are of the same moment. A new one replaces the old in one rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from motet.core.errors import ConfigError

CHECKPOINT_NAME = "checkpoint.safetensors"

Parameters = Mapping[str, nn.Parameter]


def save_checkpoint(
    path: Path,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    num_steps_done: int,
    run: Mapping[str, object],
) -> None:
    """Write the state after `num_steps_done` steps of the run that `run` describes."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"gate/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    header = {"num_steps_done": str(num_steps_done), "run": json.dumps(run, sort_keys=True)}
    beside = path.with_suffix(".tmp")
    save_file(tensors, beside, metadata=header)
    os.replace(beside, path)


def restore_checkpoint(
    path: Path,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    run: Mapping[str, object],
) -> int:
    """Put a saved state into `parameters` and `optimizer`; returns the number of steps done.

    Raises:
        ConfigError: there is none at `path`, it cannot be read, or it is of another run.
    """
    if not path.is_file():
        raise ConfigError(
            f"There is no {path.name} in {path.parent} to go on from. Start without --resume.",
            param="resume",
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_run(json.loads(header.get("run", "{}")), run)
            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(f"gate/{name}"))
                optimizer.state[parameter] = {
                    key.split("/", 2)[1]: file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118 - it is no mapping
                    if key.startswith("optimizer/") and key.split("/", 2)[2] == name
                }
            return int(header["num_steps_done"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path} cannot be gone on from: {error}. Start without --resume.", param="resume"
        ) from error


def _check_run(saved: Mapping[str, object], run: Mapping[str, object]) -> None:
    for name, value in json.loads(json.dumps(run)).items():
        if saved.get(name) != value:
            raise ConfigError(
                f"The checkpoint is of a run with {name} = {saved.get(name)!r}, this one has "
                f"{value!r}. Resume with the options that it began with, or start anew.",
                param="resume",
            )
