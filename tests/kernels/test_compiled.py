"""Where compiled kernels are kept, and how they read an address."""

from pathlib import Path

import numba
import numpy as np
import pytest

from motet.kernels import compiled as module
from motet.kernels.compiled import compiled, floats, integers, ints


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernel sources."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("calls.py", "is_called.py"):
        (folder / name).write_text(f"# {name}")
    monkeypatch.setattr(module, "_SOURCES", folder)
    return folder


def test_a_change_in_any_source_begins_another_folder(sources: Path) -> None:
    folders = [module._cache_dir("")]
    assert module._cache_dir("") == folders[0]
    (sources / "is_called.py").write_text("# changed")
    folders.append(module._cache_dir(""))
    (sources / "is_new.py").write_text("# new")
    folders.append(module._cache_dir(""))
    (sources / "is_new.py").unlink()
    assert module._cache_dir("") == folders[1]
    assert len(set(folders)) == 3
    assert {folder.parent for folder in folders} == {sources / "__pycache__"}


def test_sources_that_cannot_be_written_beside(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    monkeypatch.setattr(module.Path, "home", lambda: sources / "home")
    assert module._cache_dir("").parent == sources / "home" / ".cache" / "motet"


def test_a_folder_of_ones_own_is_divided_likewise(sources: Path, tmp_path: Path) -> None:
    """Else it would keep what was compiled from sources that have changed since."""
    first = module._cache_dir(str(tmp_path / "own"))
    (sources / "is_called.py").write_text("# changed")
    second = module._cache_dir(str(tmp_path / "own"))
    assert first != second
    assert first.parent == second.parent == tmp_path / "own"


def test_numba_keeps_kernels_there() -> None:
    @compiled()
    def kernel(x: int) -> int:
        return x + 1

    assert kernel(2) == 3
    assert Path(numba.config.CACHE_DIR) in Path(kernel._cache.cache_path).parents


def test_reading_an_address() -> None:
    """Arrays over what lies there, not copies."""
    x = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(floats(x.ctypes.data, 3, 4), x[3:7])
    floats(x.ctypes.data, 3, 4)[:] = -1
    assert x.tolist() == [0, 1, 2, -1, -1, -1, -1, 7, 8, 9]
    for dtype, read in ((np.int32, ints), (np.int64, integers)):
        whole = np.arange(-5, 5, dtype=dtype)
        np.testing.assert_array_equal(read(whole.ctypes.data, 10), whole)
