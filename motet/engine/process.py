"""The engine process: `python -m motet.engine.process --socket ADDRESS`.

Owns: start-up of the engine, the socket to the API process, and the step loop.
Does not know: HTTP.

The first line of standard input is the `EngineConfig` as JSON. Standard input then stays open as
a life line: when it closes, the API process is gone, and the engine ends.
"""

import argparse
import sys
from collections.abc import Callable

import msgspec
import numba
import torch
import zmq

from motet.core.config import EngineConfig
from motet.core.errors import MotetError
from motet.core.messages import (
    EngineFailed,
    EngineReady,
    FromEngine,
    Shutdown,
    decode_to_engine,
    encode,
)
from motet.engine.engine import Engine
from motet.engine.loader import AdapterLoader, Waker
from motet.engine.resolve import (
    resolve_device,
    resolve_geometry,
    resolve_max_model_len,
    resolve_num_pages,
    resolve_num_threads,
)
from motet.engine.runner import ModelRunner, ResidentAdapter
from motet.engine.store import AdapterStore
from motet.kernels.types import load_kernels
from motet.memory.device_pool import DevicePool, row_capacity
from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency
from motet.models.loader import load_decoder, resolve_dtype, resolve_model_dir
from motet.scheduler.scheduler import Scheduler


def build_engine(
    config: EngineConfig, wake: Callable[[], None], send: Callable[[FromEngine], None]
) -> tuple[Engine, EngineReady]:
    """Load the model, size the pool and wire the engine.

    Args:
        config: the options; what is None is filled here.
        wake: called from a loader thread when the engine should step.
        send: takes the engine's messages.

    Raises:
        ConfigError: options that contradict the model or the machine.
        ModelError: the model cannot be loaded.
    """
    device = resolve_device(config)
    num_threads = resolve_num_threads(config)
    torch.set_num_threads(num_threads)
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    model_dir = resolve_model_dir(config.model)
    dtype = resolve_dtype(config.dtype, device, model_dir)
    decoder = load_decoder(model_dir, device, dtype)
    shape = decoder.config.shape
    geometry = resolve_geometry(config, shape)
    max_model_len = resolve_max_model_len(config, decoder.config.max_position_embeddings)
    num_pages = resolve_num_pages(config, geometry, dtype, device)
    device_pool = DevicePool(geometry, num_pages, dtype, device)
    page_pool = PagePool(num_pages)
    residency = AdapterResidency(page_pool, num_pages, row_capacity(geometry, num_pages))
    store = AdapterStore()

    def resident_adapter(digest: str) -> ResidentAdapter:
        return ResidentAdapter(residency.slot(digest), store.packed(digest).layout.max_rank)

    engine = Engine(
        scheduler=Scheduler(
            page_pool,
            residency,
            geometry,
            max_step_tokens=config.max_step_tokens,
            max_running=config.max_running,
        ),
        runner=ModelRunner(decoder, device_pool, load_kernels(device), resident_adapter),
        loader=AdapterLoader(device_pool, config.num_loader_threads, wake),
        pool=page_pool,
        residency=residency,
        store=store,
        max_model_len=max_model_len,
        send=send,
    )
    ready = EngineReady(
        model_name=config.model_name or model_dir.name,
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_model_len=max_model_len,
        page_size=geometry.page_size,
        page_bytes=geometry.page_bytes(dtype.itemsize),
        num_pages=num_pages,
    )
    return engine, ready


class EngineLoop:
    """Steps while there is work; else sleeps until a message, a finished load, or the end."""

    def __init__(self, socket: zmq.SyncSocket, waker: Waker, engine: Engine) -> None:
        self._socket = socket
        self._waker = waker
        self._engine = engine
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(waker.fd, zmq.POLLIN)
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Until `Shutdown`, or until the API process is gone."""
        has_work = True
        while True:
            ready = dict(self._poller.poll(0 if has_work else None))
            if sys.stdin.fileno() in ready:  # nothing is ever sent there: it was closed
                return
            if self._waker.fd in ready:
                self._waker.drain()
            if not self._take_messages():
                return
            has_work = self._engine.step()

    def _take_messages(self) -> bool:
        """Handle all messages that have come. False after `Shutdown`."""
        while self._socket.poll(0):
            message = decode_to_engine(self._socket.recv())
            if isinstance(message, Shutdown):
                return False
            self._engine.handle(message)
        return True


def main() -> int:
    """Run the engine until it is told to end; the exit status is 1 if it could not start."""
    parser = argparse.ArgumentParser(description="The engine process of Motet.")
    parser.add_argument("--socket", required=True, help="ZeroMQ address of the API process")
    address = parser.parse_args().socket
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(0)  # the API process takes every message; none may be dropped
    socket.connect(address)

    def send(message: FromEngine) -> None:
        socket.send(encode(message))

    waker = Waker()
    try:
        engine, ready = build_engine(config, waker.wake, send)
    except MotetError as error:
        send(EngineFailed(error.message, error.code))
        socket.close(linger=5000)
        context.term()
        return 1
    send(ready)
    try:
        EngineLoop(socket, waker, engine).run()
    finally:
        engine.close()
        context.destroy(linger=1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
