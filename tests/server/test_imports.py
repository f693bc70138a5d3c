"""The API process holds no tensors, and so must start without the libraries for them."""

import subprocess
import sys

import pytest

from motet.models.default_model import DEFAULT_MODEL_NAME
from motet.server.model_dir import EMBEDDED_MODEL_NAME


@pytest.mark.parametrize("module", ["motet.server.app", "motet.server.run", "motet.server.cli"])
def test_importing_the_server_loads_no_tensor_library(module: str) -> None:
    program = (
        f"import sys, {module}; "
        "print(*sorted({'torch', 'transformers', 'numba', 'triton'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_the_embedded_model_has_one_name() -> None:
    """It is written down twice, for the server does not import the models."""
    assert EMBEDDED_MODEL_NAME == DEFAULT_MODEL_NAME
