"""Pickles: in an adapter's files, and on the socket between the two processes."""

import os
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
import zmq
from hypothesis import given
from hypothesis import strategies as st

from motet.core.messages import decode_from_engine, decode_to_engine
from tests.security.hostile_files import CONFIG, WEIGHTS, Touch, write_good
from tests.security.real_server import ALICE, RealServer

PICKLED_NAMES = (
    *("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_model.bin"),
    *("adapter_model.ckpt", "adapter_model.pkl", "adapter_model.npz"),
)


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


def tarred(path: Path, content: bytes) -> None:
    source = path.with_suffix(".pkl")
    source.write_bytes(content)
    with tarfile.open(path, "w") as archive:
        archive.add(source, "../../data.pkl")
    source.unlink()


def saved_by_torch(path: Path, content: bytes) -> None:
    torch.save({"weight": torch.zeros(1), "evil": content}, path)


WAYS: dict[str, Callable[[Path, bytes], object]] = {
    "pickle": Path.write_bytes,
    "zip": zipped,
    "tar": tarred,
    "torch": saved_by_torch,
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def evil(canary: Path) -> bytes:
    """A pickle that has been seen to run code."""
    content = pickle.dumps(Touch(str(canary)))
    pickle.loads(content)
    canary.unlink()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("name", PICKLED_NAMES)
def test_weights_in_a_pickle_are_refused_by_name(
    real: RealServer, evil: bytes, canary: Path, name: str
) -> None:
    directory = write_good(real.root / f"named-{name}")
    (directory / WEIGHTS).unlink()
    (directory / name).write_bytes(evil)
    answer = real.load("alice-evil", directory)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("unsupported_format", "invalid_adapter")
    assert not canary.exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_pickle_under_a_good_name_is_no_good_file(
    real: RealServer, evil: bytes, canary: Path, name: str, way: str
) -> None:
    directory = write_good(real.root / f"{way}-as-{name}")
    WAYS[way](directory / name, evil)
    answer = real.load("alice-evil", directory)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("corrupt_adapter", "invalid_adapter")
    assert not canary.exists()


@pytest.mark.slow
def test_pickles_and_code_beside_the_weights_are_not_touched(
    real: RealServer, evil: bytes, canary: Path
) -> None:
    directory = write_good(real.root / "beside")
    for name in ("training_args.bin", "adapter_model.bin", "optimizer.pt", "rng_state.pth"):
        (directory / name).write_bytes(evil)
    code = f"open({str(canary)!r}, 'w')"
    for name in ("modeling.py", "__init__.py", "sitecustomize.py", "configuration.py"):
        (directory / name).write_text(code)
    assert real.load("alice-beside", directory).status_code == 200
    assert real.complete(ALICE, model="alice-beside").status_code == 200
    assert not canary.exists()


def _only_types_of_ours(decode: Callable[[bytes], object], content: bytes) -> None:
    try:
        message = decode(content)
    except msgspec.MsgspecError:
        return
    assert type(message).__module__ == "motet.core.messages"


@pytest.mark.parametrize("decode", [decode_to_engine, decode_from_engine])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_frame_is_no_message(
    canary: Path, decode: Callable[[bytes], object], protocol: int
) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(pickle.dumps(Touch(str(canary)), protocol))
    assert not canary.exists()


@pytest.mark.parametrize("decode", [decode_to_engine, decode_from_engine])
@given(content=st.binary(max_size=200))
def test_no_bytes_become_anything_but_a_message(
    decode: Callable[[bytes], object], content: bytes
) -> None:
    _only_types_of_ours(decode, content)


@pytest.mark.parametrize("decode", [decode_to_engine, decode_from_engine])
@pytest.mark.parametrize(
    "content",
    [
        b"\x91" * 100_000,  # lists in lists
        b"\xdd\xff\xff\xff\xff",  # a list of four billion
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc7\x04\x01evil",  # an extension type
        b"",
    ],
)
def test_frames_that_promise_too_much(decode: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, RecursionError)):
        decode(content)


def _ipc_socket(server_pid: int) -> Path:
    """The socket that the engine was told to connect to, from its command line."""
    commands = [child.cmdline() for child in psutil.Process(server_pid).children()]
    [engine] = [command for command in commands if "motet.engine.process" in command]
    return Path(engine[engine.index("--socket") + 1].removeprefix("ipc://"))


@pytest.mark.slow
def test_nobody_else_can_reach_the_socket_between_the_processes(real: RealServer) -> None:
    path = _ipc_socket(real.serving.process.pid)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_uid == os.getuid()


@pytest.mark.slow
def test_what_reaches_it_all_the_same_is_not_heard(
    real: RealServer, evil: bytes, canary: Path
) -> None:
    """This process has the server's own user: it gets past the directory, and no further."""
    context = zmq.Context()
    intruder = context.socket(zmq.PAIR)
    intruder.connect(f"ipc://{_ipc_socket(real.serving.process.pid)}")
    for frame in (evil, b"", b"\xff" * 1000, b"\x91" * 1000):
        intruder.send(frame)
    assert real.complete(ALICE).status_code == 200
    assert not canary.exists()
    context.destroy(linger=0)
    assert real.complete(ALICE).status_code == 200
