"""Loading a router of another format as it is: refused, with the way to convert it."""

import json

import pytest

from motet.adapters.peft_lora import load_adapter
from motet.core.errors import AdapterError
from tests.adapters.importing.published import write_meteora, write_mixlora, write_mola
from tests.adapters.make import TINY, write_lora


def refused(directory) -> tuple[str, str]:
    with pytest.raises(AdapterError) as caught:
        load_adapter(directory, TINY)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("is_pickled", [False, True])
@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("mixlora", write_mixlora),
        ("mola", lambda root: write_mola(root, is_fork=False)),
        ("mola", lambda root: write_mola(root, is_fork=True)),
    ],
)
def test_a_router_to_be_converted(tmp_path, layout, write, is_pickled):
    source = write(tmp_path).source
    if is_pickled:
        (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    code, message = refused(source)
    assert code == "unsupported_adapter"
    assert f"motet import-router {layout}" in message


def test_a_meteora_checkpoint(tmp_path):
    source = write_meteora(tmp_path).source
    (source / "config.json").write_text("{}")
    assert "motet import-router meteora" in refused(source)[1]


@pytest.mark.parametrize(("kind", "words"), [("XLORA", "two"), ("LORAMOE", "method mola")])
def test_routers_that_cannot_be(tmp_path, kind, words):
    directory = write_lora(tmp_path / "adapter")
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**config, "peft_type": kind}))
    code, message = refused(directory)
    assert code == "unsupported_adapter"
    assert words in message
