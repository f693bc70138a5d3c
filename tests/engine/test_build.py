"""What is done before anything is put on the device."""

from pathlib import Path

import pytest
import torch

from motet.core.config import EngineConfig
from motet.core.errors import ModelError
from motet.engine.build import build_engine


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", ["cuda:1"]), ("cpu", [])])
def test_a_numbered_gpu_is_made_the_current_one_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, expected: list[str]
) -> None:
    """Triton launches on the current device, whichever one its tensors are on."""
    made_current: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda each: made_current.append(str(each)))
    config = EngineConfig(device=device, model=str(tmp_path), num_threads=torch.get_num_threads())
    with pytest.raises(ModelError):
        build_engine(config, lambda: None, lambda message: None)
    assert made_current == expected
