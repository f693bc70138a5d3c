"""Looking names up in a directory: once for many, and without remembering too much."""

import asyncio
from pathlib import Path

import pytest

from motet.core.errors import ConfigError
from motet.server import adapter_dir
from motet.server.adapter_dir import AdapterDirectory
from motet.server.single_flight import SingleFlight


def test_lookups_of_one_name_at_once_are_one(
    adapters_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def confine(path: Path, roots: object) -> Path:
        looked_up.append(path.name)
        return path

    async def find() -> None:
        directory = AdapterDirectory(adapters_dir, (adapters_dir,))
        found = await asyncio.gather(*(directory.find("red") for _ in range(20)))
        assert found == [adapters_dir / "red"] * 20

    monkeypatch.setattr(adapter_dir, "confine", confine)
    asyncio.run(find())
    assert looked_up == ["adapter_config.json", "red"]


def test_made_up_names_take_no_more_memory_than_that(
    adapters_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_dir, "MAX_REMEMBERED_MISSES", 10)

    async def find() -> None:
        directory = AdapterDirectory(adapters_dir, (adapters_dir,))
        for index in range(50):
            assert await directory.find(f"made-up-{index}") is None
        assert list(directory._misses) == [f"made-up-{index}" for index in range(40, 50)]

    asyncio.run(find())


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        AdapterDirectory(tmp_path / "file", ())


def test_work_goes_on_for_the_others_and_its_failure_is_everybodys() -> None:
    async def work() -> None:
        num_runs = 0

        async def fail() -> None:
            nonlocal num_runs
            num_runs += 1
            await asyncio.sleep(0.05)
            raise ValueError("no")

        flight: SingleFlight[None] = SingleFlight()
        waiting = [asyncio.create_task(flight.run("key", fail)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in results] == [asyncio.CancelledError, ValueError, ValueError]
        assert num_runs == 1
        with pytest.raises(ValueError, match="no"):
            await flight.run("key", fail)
        assert num_runs == 2

    asyncio.run(work())
