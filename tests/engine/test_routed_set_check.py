"""What a check says of a routed set, against what the loader makes of it."""

import json
from pathlib import Path

import pytest
import torch

from motet.core.pacing import at_once
from motet.engine.read_adapter import PackingFormat, Source, read_parts
from motet.engine.routed_set_check import check_routed_set
from motet.memory.geometry import PageGeometry
from tests.adapters.make import TINY
from tests.adapters.make_routed import METHOD_FIELDS, write_set


@pytest.mark.parametrize("method", METHOD_FIELDS)
def test_a_set_takes_the_pages_that_a_check_foretells(tmp_path: Path, method: str) -> None:
    written = write_set(tmp_path / "set", method)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": TINY.hidden_size,
        "intermediate_size": TINY.intermediate_size,
        "num_hidden_layers": TINY.num_layers,
        "num_attention_heads": TINY.num_heads,
        "num_key_value_heads": TINY.num_kv_heads,
        "head_dim": TINY.head_dim,
        "vocab_size": TINY.vocab_size,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    foretold = check_routed_set(written.directory, tmp_path, tmp_path, None)
    geometry = PageGeometry(TINY, foretold.page_size)
    source = Source(str(written.directory), tuple(map(str, written.members)))
    parts = read_parts(source, PackingFormat(geometry, torch.float32, pinned=False), at_once)
    assert foretold.num_pages == parts[0].info.num_pages
