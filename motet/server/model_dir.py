"""Where the base model lies on this machine.

Owns: finding it without loading a tensor library into this process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from motet.core.errors import ModelError

# What requests call the model that is served if none is named.
EMBEDDED_MODEL_NAME = "SmolLM2-135M-Instruct"


def model_dir_for(model: str | None) -> Path:
    """The Hugging Face directory of a model; fetched or converted first if need be.

    Args:
        model: a directory, a hub id, a `.gguf` file, or None for the embedded default.

    Raises:
        ModelError: there is no such model, with the reason.
    """
    if model is not None and Path(model).is_dir():
        return Path(model).absolute()
    command = [sys.executable, "-m", "motet.models.locate", *([] if model is None else [model])]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reason = "no reason was given"
        for line in process.stderr:  # a first start may take minutes: show how it goes
            sys.stderr.write(line)
            reason = line.strip() or reason
        lines = process.stdout.read().splitlines()
    if process.returncode != 0 or not lines:
        raise ModelError(f"The model {model or '(default)'} cannot be had: {reason}")
    return Path(lines[-1])
