"""Symbolic links that change between the check of a path and its use."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from motet.adapters.peft_lora import load_adapter
from motet.adapters.roots import confine
from motet.core.errors import AdapterError
from tests.adapters.make import AdapterSpec, write_lora
from tests.security.hostile_files import CONFIG, WEIGHTS
from tests.security.real_server import SHAPE

SMALL = AdapterSpec(rank=1, layers=(0,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Allowed is what lies in `root`; beside it lies an adapter that is not."""
    write_lora(tmp_path / "root" / "tenant" / "mine", SHAPE, SMALL)
    write_lora(tmp_path / "outside" / "mine", SHAPE, AdapterSpec(rank=1, layers=(0,), seed=1))
    return tmp_path / "root"


def swap_for_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


@pytest.mark.parametrize("what", ["tenant/mine", "tenant"])
def test_a_directory_that_became_a_link_since_it_was_confined(root: Path, what: str) -> None:
    """The API process confines the path, and the engine reads it some time later."""
    confined = confine("tenant/mine", [root])
    swap_for_link(root / what, root.parent / "outside" / Path(what).relative_to("tenant"))
    with pytest.raises(AdapterError) as caught:
        load_adapter(confined, SHAPE, is_resolved=True)
    assert caught.value.code == "corrupt_adapter"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_that_is_a_link_to_another_adapters(root: Path, name: str) -> None:
    confined = confine("tenant/mine", [root])
    swap_for_link(confined / name, root.parent / "outside" / "mine" / name)
    with pytest.raises(AdapterError) as caught:
        load_adapter(confined, SHAPE, is_resolved=True)
    assert caught.value.code == "path_not_allowed"


def test_a_hard_link_is_the_file_itself(root: Path) -> None:
    """It needs write access to the file's own file system, and is no way to read what one may not:
    the operating system decides who may make one."""
    confined = confine("tenant/mine", [root])
    (confined / WEIGHTS).unlink()
    os.link(root.parent / "outside" / "mine" / WEIGHTS, confined / WEIGHTS)
    load_adapter(confined, SHAPE, is_resolved=True)


@contextmanager
def flipping(path: Path, target: Path) -> Iterator[None]:
    """While the block runs, `path` is now the directory and now a link to `target`."""
    stop = threading.Event()
    aside = path.with_name("aside")
    link = path.with_name("link")

    def flip() -> None:
        while not stop.is_set():
            path.rename(aside)
            link.symlink_to(target)
            link.rename(path)
            path.unlink()
            aside.rename(path)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("what", ["tenant/mine", "tenant"])
def test_no_race_reads_what_lies_outside(root: Path, what: str) -> None:
    """Whatever is read while a link comes and goes is the adapter inside, or nothing."""
    inside = load_adapter(root / "tenant" / "mine", SHAPE).digest
    target = root.parent / "outside" / Path(what).relative_to("tenant")
    digests, num_refused = set(), 0
    with flipping(root / what, target):
        for _ in range(300):
            try:
                confined = confine("tenant/mine", [root])
                digests.add(load_adapter(confined, SHAPE, is_resolved=True).digest)
            except AdapterError:
                num_refused += 1
    assert digests <= {inside}
    assert num_refused + len(digests) > 0
