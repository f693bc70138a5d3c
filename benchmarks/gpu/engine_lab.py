"""A whole engine in this process, over random weights and dummy adapters.

Owns: the engine, what it answers, and the adapters that it knows.
Does not know: what is measured on it.

Adapters are put where the loader would put what it has read: in host memory, packed. On the device
each has pages of its own, to which it is copied when a request asks for it.
"""

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import torch

from benchmarks.gpu.dummies import DummyAdapters
from benchmarks.gpu.lora_pool import Ranks, row_elems
from benchmarks.gpu.timing import synchronize
from motet.core.config import EngineConfig
from motet.core.messages import (
    AbortRequest,
    AdapterInfo,
    AddRequest,
    FromEngine,
    RequestFailed,
    StepOutput,
)
from motet.core.sampling import SamplingParams
from motet.engine.build import assemble_engine
from motet.engine.read_adapter import Part, Source
from motet.kernels.types import Kernels
from motet.models.decoder import Decoder

# Bookkeeping alone: the dummies share their bytes.
_HOST_BYTES = 1 << 46
_WAIT_S = 0.01
_LIMIT_S = 60.0


class EngineLab:
    """What the parts of the engine are measured on.

    Args:
        decoder: the model.
        kernels: its device's kernels.
        config: options of the engine; those for host memory are set here.
        seed: of prompts and adapters.

    Attributes:
        num_tokens: output tokens by request, of those that have not ended.
        total_tokens: output tokens of all requests.
    """

    def __init__(self, decoder: Decoder, kernels: Kernels, config: EngineConfig, seed: int) -> None:
        _give_memory_back()  # of what was measured before: the pool takes what is free
        self._woken = threading.Event()
        self._parts = assemble_engine(
            msgspec.structs.replace(config, host_adapter_bytes=_HOST_BYTES),
            decoder,
            kernels,
            self._woken.set,
            self._take,
        )
        self._shape = decoder.config.shape
        self._dtype = decoder.dtype
        self._device = decoder.device
        self._rng = random.Random(seed)
        self._dummies = DummyAdapters(self._parts.memory.geometry, self._dtype, self._device, seed)
        self._adapter_bytes: dict[str, int] = {}
        self._num_requests = 0
        self._finished: list[str] = []
        self.num_tokens: Counter[str] = Counter()
        self.total_tokens = 0

    def add_adapter(self, digest: str, ranks: Ranks) -> None:
        """Make a dummy adapter known, unless it is."""
        if digest in self._adapter_bytes:
            return
        packed = self._dummies.pack(ranks)
        layout = packed.layout
        num_elems = row_elems(self._shape, ranks)
        info = AdapterInfo(
            digest=digest,
            max_rank=layout.max_rank,
            modules=sorted({module.name.lower() for _, module in ranks}),
            num_parameters=num_elems,
            num_pages=layout.num_pages,
        )
        memory = self._parts.memory
        self._parts.store.refer([Part(Source(digest), packed, info)])
        memory.residency.register(digest, num_pages=layout.num_pages, num_rows=layout.num_rows)
        memory.host.offer(digest, layout.num_pages, packed)
        self._adapter_bytes[digest] = num_elems * self._dtype.itemsize

    def add_request(self, num_prompt_tokens: int, max_tokens: int, digest: str | None) -> str:
        """Queue a request with a fresh random prompt; its id."""
        request_id = str(self._num_requests)
        self._num_requests += 1
        prompt = self._rng.choices(range(self._shape.vocab_size), k=num_prompt_tokens)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self._parts.engine.handle(AddRequest(request_id, prompt, sampling, digest))
        return request_id

    def step(self) -> None:
        """One step; where there is nothing to run until a copy has come, wait for it."""
        self._woken.clear()
        if not self._parts.engine.step():
            self._woken.wait(_WAIT_S)

    def step_until(self, is_enough: Callable[[], bool]) -> None:
        """Step until this holds.

        Raises:
            RuntimeError: it does not within a time in which anything should.
        """
        end_s = time.monotonic() + _LIMIT_S
        while not is_enough():
            self.step()
            if time.monotonic() > end_s:
                raise RuntimeError(f"the engine came to nothing within {_LIMIT_S} s")

    def finish(self) -> None:
        """Step until no request is left."""
        scheduler = self._parts.scheduler
        self.step_until(lambda: not (scheduler.num_running or scheduler.num_waiting))
        self._parts.engine.step()  # one that was under way beside the last

    def take_finished(self) -> list[str]:
        """The requests that have ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget requests."""
        for request_id in request_ids:
            self._parts.engine.handle(AbortRequest(request_id))
        self.finish()
        self.take_finished()
        self.num_tokens.clear()

    def bring_in(self, digests: Sequence[str]) -> None:
        """Have these adapters on the device, as far as there is room for them."""
        for digest in digests:
            self.add_request(1, 1, digest)
        self.finish()

    def synchronize(self) -> None:
        """Wait for the device."""
        synchronize(self._device)

    def running_adapter_bytes(self) -> int:
        """Bytes of the adapters that running requests use, each counted once."""
        return sum(self._adapter_bytes[each] for each in self._parts.scheduler.running_adapters())

    @property
    def num_loads(self) -> int:
        """Copies of adapters to the device since the start."""
        return self._parts.memory.residency.num_loads

    def describe(self) -> Mapping[str, Any]:
        """The pool, for the report."""
        memory = self._parts.memory
        return {"num_pages": memory.pool.num_pages, "page_bytes": memory.page_bytes}

    def close(self) -> None:
        """End the loader threads, and give the pool's memory back."""
        self._parts.engine.close()
        del self._parts, self._dummies
        _give_memory_back()

    def _take(self, message: FromEngine) -> None:
        match message:
            case StepOutput(outputs=outputs):
                for output in outputs:
                    self.total_tokens += len(output.token_ids)
                    self.num_tokens[output.request_id] += len(output.token_ids)
                    if output.finish_reason is not None:
                        self._finished.append(output.request_id)
                        del self.num_tokens[output.request_id]
            case RequestFailed(code=code, message=reason):
                raise RuntimeError(f"the engine failed a request: {code}: {reason}")


def _give_memory_back() -> None:
    gc.collect()
    torch.cuda.empty_cache()
