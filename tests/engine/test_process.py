"""The engine as a process of its own, over a real socket."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import zmq

from motet.core.config import EngineConfig
from motet.core.messages import (
    AddRequest,
    EngineFailed,
    EngineReady,
    EngineStats,
    FromEngine,
    GetStats,
    Shutdown,
    StepOutput,
    ToEngine,
    decode_from_engine,
    encode,
)
from motet.core.sampling import SamplingParams
from tests.models.tiny import save_tiny_model

pytestmark = pytest.mark.slow

LIMIT_MS = 120_000


@dataclass(frozen=True)
class Peer:
    """The API process's end."""

    socket: zmq.SyncSocket
    process: subprocess.Popen[bytes]

    def send(self, message: ToEngine) -> None:
        self.socket.send(encode(message))

    def receive(self) -> FromEngine:
        assert self.socket.poll(LIMIT_MS), "the engine is silent"
        return decode_from_engine(self.socket.recv())


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    address = f"ipc://{tmp_path}/engine"
    socket.bind(address)
    process = subprocess.Popen(
        [sys.executable, "-m", "motet.engine.process", "--socket", address],
        stdin=subprocess.PIPE,
    )
    yield Peer(socket, process)
    process.kill()
    process.wait()
    context.destroy(linger=0)


def start(peer: Peer, config: EngineConfig) -> FromEngine:
    stdin = peer.process.stdin
    assert stdin is not None
    stdin.write(msgspec.json.encode(config) + b"\n")
    stdin.flush()
    return peer.receive()


def tiny_dir(tmp_path: Path) -> Path:
    save_tiny_model("llama", tmp_path / "m")
    return tmp_path / "m"


def tiny_config(tmp_path: Path) -> EngineConfig:
    return EngineConfig(model=str(tiny_dir(tmp_path)), pool_memory_bytes=1 << 24)


def test_it_answers_requests_and_ends_when_told(peer: Peer, tmp_path: Path) -> None:
    ready = start(peer, tiny_config(tmp_path))
    assert isinstance(ready, EngineReady), ready
    peer.send(AddRequest("a", [1, 2, 3], SamplingParams(max_tokens=3, temperature=0), None))
    tokens = []
    while True:
        message = peer.receive()
        assert isinstance(message, StepOutput)
        tokens += message.outputs[0].token_ids
        if message.outputs[0].finish_reason is not None:
            break
    assert len(tokens) == 3
    peer.send(GetStats("s"))
    stats = peer.receive()
    assert isinstance(stats, EngineStats)
    assert stats.num_pages_free == stats.num_pages_total == ready.num_pages
    peer.send(Shutdown())
    assert peer.process.wait(30) == 0


def test_it_ends_when_the_api_process_is_gone(peer: Peer, tmp_path: Path) -> None:
    assert isinstance(start(peer, tiny_config(tmp_path)), EngineReady)
    assert peer.process.stdin is not None
    peer.process.stdin.close()
    assert peer.process.wait(30) == 0


def test_a_model_that_is_not_there_is_reported(peer: Peer, tmp_path: Path) -> None:
    failed = start(peer, EngineConfig(model=str(tmp_path / "model.gguf")))
    assert isinstance(failed, EngineFailed)
    assert "model.gguf" in failed.message
    assert peer.process.wait(30) == 1


def test_a_pool_that_holds_nothing_is_reported(peer: Peer, tmp_path: Path) -> None:
    config = EngineConfig(model=str(tiny_dir(tmp_path)), pool_memory_bytes=100)
    failed = start(peer, config)
    assert isinstance(failed, EngineFailed)
    assert "--pool-memory" in failed.message


def test_torch_and_numba_share_one_team_of_threads() -> None:
    """One OpenMP runtime in the process; or none of the system's, and Numba keeps off OpenMP."""
    program = """
from motet.kernels.threads import share_cores
share_cores()
import numba, numpy, torch

@numba.njit(parallel=True)
def double(values):
    for i in numba.prange(len(values)):
        values[i] *= 2

double(numpy.ones(8))
torch.ones(512, 512) @ torch.ones(512, 512)
maps = open("/proc/self/maps").read().split()
print(len({path for path in maps if "libgomp" in path}), numba.threading_layer())
"""
    environment = {**os.environ}
    environment.pop("NUMBA_THREADING_LAYER", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() in (["1", "omp"], ["1", "workqueue"])
