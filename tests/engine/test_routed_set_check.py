"""What a check says of a routed set, against what the loader makes of it."""

from pathlib import Path

import pytest
import torch

from motet.core.pacing import at_once
from motet.engine.read_adapter import PackingFormat, Source, read_parts
from motet.engine.routed_set_check import check_routed_set
from motet.memory.geometry import PageGeometry
from tests.adapters.make import TINY, write_base_config
from tests.adapters.make_routed import METHOD_FIELDS, write_set


@pytest.mark.parametrize("method", METHOD_FIELDS)
def test_a_set_takes_the_pages_that_a_check_foretells(tmp_path: Path, method: str) -> None:
    written = write_set(tmp_path / "set", method)
    base_dir = write_base_config(tmp_path / "base")
    foretold = check_routed_set(written.directory, tmp_path, base_dir, None)
    geometry = PageGeometry(TINY, foretold.page_size)
    source = Source(str(written.directory), tuple(map(str, written.members)))
    parts = read_parts(source, PackingFormat(geometry, torch.float32, pinned=False), at_once)
    assert foretold.num_pages == parts[0].info.num_pages
