"""What becomes of a load while others change what it needs."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from motet.core.errors import AdapterError
from motet.core.messages import AdapterInfo
from motet.server.adapter import Adapter, Source, SourceType, Version, VersionState
from motet.server.engine_client import AdapterReference, EngineClient
from motet.server.holdings import Holdings
from motet.server.names import AdapterNames
from motet.server.records import Records
from motet.server.version_files import FileFinder
from tests.server.conftest import write_adapter, write_set
from tests.server.fake_engine import digest_of


class EngineThat:
    """An engine that does something before it answers a load."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self.held: list[AdapterReference] = []

    async def load_adapter(self, path: Path, expert_paths: Sequence[Path] = ()) -> AdapterReference:
        self._meanwhile()
        reference = AdapterReference(AdapterInfo("d" * 64, 8, ["q"], 1, 1), path, 1)
        self.held.append(reference)
        return reference

    def release_adapter(self, reference: AdapterReference) -> None:
        self.held.remove(reference)


def version_at(path: Path, **more: Any) -> Version:
    return Version(path.name, 1, Source(SourceType.STATIC, str(path)), path, 0, **more)


def test_a_set_whose_expert_is_deleted_while_it_loads_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "red", b"red")
    write_set(tmp_path / "mix", {"red": b"red"})
    records = Records(None)
    info = AdapterInfo(digest_of(b"red"), 8, ["q"], 1, 1)
    expert = version_at(tmp_path / "red", info=info, state=VersionState.READY)
    red = Adapter("red").put(expert).point({1: 1.0})
    records.catalogue.put(red)
    draining = red.put(replace(expert, state=VersionState.DRAINING))
    engine = EngineThat(lambda: records.catalogue.put(draining))
    finder = FileFinder(AdapterNames("base", records, None), [tmp_path])
    holdings = Holdings(cast(EngineClient, engine), finder, records.catalogue)
    with pytest.raises(AdapterError, match="'red'"):
        asyncio.run(holdings.load(version_at(tmp_path / "mix"), "source"))
    assert engine.held == []
