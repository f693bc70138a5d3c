"""Compositions and routed sets through a whole engine: each request in a mixed batch is as alone.

Owns: what the requests of several adapters promise, with a tiny model and the reference kernels.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from motet.core.config import EngineConfig
from motet.core.messages import (
    AdapterLoaded,
    AddRequest,
    EngineStats,
    FromEngine,
    GetStats,
    LoadAdapter,
    StepOutput,
    TokenOutput,
    WeightedAdapter,
)
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.engine.build import assemble_engine
from motet.engine.runner import ModelRunner
from motet.kernels.reference_backend import ReferenceKernels
from motet.memory.device_pool import num_pages_in
from motet.memory.geometry import PageGeometry
from motet.models.decoder import Decoder
from tests.adapters.make import AdapterSpec, write_lora
from tests.adapters.make_routed import SetOnDisk, write_set
from tests.engine.decode_cases import PAGE_SIZE, tiny_decoder
from tests.models.tiny import random_tokens

RANKS = (1, 2, 3, 4, 5, 8, 16, 2)
METHODS = ("meteora", "lora_mixer", "mola", "arrow", "smora", "mora")


@dataclass(frozen=True)
class World:
    """A tiny model, adapters and routed sets for it."""

    decoder: Decoder
    adapters: list[Path]
    sets: dict[str, SetOnDisk]

    @property
    def shape(self) -> ModelShape:
        return self.decoder.config.shape


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("routed")
    decoder = tiny_decoder(root / "model")
    shape = decoder.config.shape
    adapters = [
        write_lora(root / f"a{i}", shape, AdapterSpec(rank=rank, seed=i, scale=0.2))
        for i, rank in enumerate(RANKS)
    ]
    shared = [AdapterSpec(rank=2, seed=50, scale=0.2)]
    sets = {
        method: write_set(
            root / method, method, shape=shape, seed=index, shared=shared if index == 0 else ()
        )
        for index, method in enumerate(METHODS)
    }
    return World(decoder, adapters, sets)


class Session:
    """An engine in this process, stepped by the test."""

    def __init__(self, world: World, num_pages: int = 600, **options: object) -> None:
        self.world = world
        self.sent: list[FromEngine] = []
        self._woken = threading.Event()
        config = EngineConfig(
            model="tiny",
            page_size=PAGE_SIZE,
            pool_memory_bytes=_bytes_of_pages(world.shape, num_pages),
            **options,  # type: ignore[arg-type]
        )
        self.parts = assemble_engine(
            config, world.decoder, ReferenceKernels(), self._woken.set, self.sent.append
        )
        self.engine = self.parts.engine

    def load(self, directory: Path, expert_paths: Sequence[Path] = ()) -> AdapterLoaded:
        num_sent = len(self.sent)
        message = LoadAdapter(directory.name, str(directory), list(map(str, expert_paths)))
        self.engine.handle(message)
        self.step_until(lambda: len(self.sent) > num_sent)
        loaded = self.sent[-1]
        assert isinstance(loaded, AdapterLoaded), loaded
        return loaded

    def load_set(self, method: str) -> AdapterLoaded:
        on_disk = self.world.sets[method]
        return self.load(on_disk.directory, on_disk.members)

    def outputs(self, requests: Sequence[AddRequest]) -> dict[str, list[TokenOutput]]:
        """Run requests together to their ends; their outputs."""
        outputs: dict[str, list[TokenOutput]] = {each.request_id: [] for each in requests}
        seen = len(self.sent)
        for request in requests:
            self.engine.handle(request)

        def is_done() -> bool:
            nonlocal seen
            for message in self.sent[seen:]:
                assert isinstance(message, StepOutput), message
                for output in message.outputs:
                    outputs[output.request_id].append(output)
            seen = len(self.sent)
            return all(each and each[-1].finish_reason for each in outputs.values())

        self.step_until(is_done)
        return outputs

    def tokens(self, requests: Sequence[AddRequest]) -> dict[str, list[int]]:
        return {
            name: [token for output in outputs for token in output.token_ids]
            for name, outputs in self.outputs(requests).items()
        }

    def stats(self) -> EngineStats:
        self.engine.handle(GetStats("s"))
        stats = self.sent[-1]
        assert isinstance(stats, EngineStats)
        return stats

    def step_until(self, condition: "object") -> None:
        deadline = time.monotonic() + 60
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.sent[-3:]
            self._woken.clear()
            if not self.engine.step():
                self._woken.wait(0.2)

    def close(self) -> None:
        """Nothing runs, and the pool is whole."""
        while self.engine.step():
            pass
        self.parts.scheduler.check()
        stats = self.stats()
        assert stats.num_pages_free + stats.num_pages_cached == stats.num_pages_total
        self.engine.close()


def _bytes_of_pages(shape: ModelShape, num_pages: int) -> int:
    geometry = PageGeometry(shape, PAGE_SIZE)
    num_bytes = num_pages * geometry.page_bytes(4)
    while num_pages_in(geometry, num_bytes, torch.float32) < num_pages:
        num_bytes += 64
    return num_bytes


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    session = Session(world)
    yield session
    session.close()


def request(
    name: str,
    prompt: list[int],
    digest: str | None = None,
    parts: Mapping[str, float] | None = None,
    *,
    returns_routing: bool = False,
    max_tokens: int = 3,
) -> AddRequest:
    composition = [WeightedAdapter(*part) for part in sorted((parts or {}).items())]
    if composition:
        digest = "composition " + " ".join(f"{p.digest} {p.weight.hex()}" for p in composition)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return AddRequest(
        name, prompt, sampling, digest, parts=composition, returns_routing=returns_routing
    )


def mixed_requests(session: Session) -> list[AddRequest]:
    """Of the base, of an adapter, of compositions of 2 and 8 parts, and of each kind of set."""
    world = session.world
    digests = [session.load(path).info.digest for path in world.adapters]
    sets = {method: session.load_set(method).info.digest for method in world.sets}
    generator = torch.Generator().manual_seed(5)

    def prompt(length: int) -> list[int]:
        return random_tokens(generator, length)

    all_parts = {digest: 0.3 - 0.1 * i for i, digest in enumerate(digests)}
    requests = [
        request("base", prompt(7)),
        request("plain", prompt(12), digests[0]),
        request("plain too", prompt(3), digests[5]),
        request("pair", prompt(19), parts=dict.fromkeys(digests[:2], 0.7)),
        request("eight", prompt(9), parts=all_parts),
    ]
    for index, (method, digest) in enumerate(sets.items()):
        requests.append(request(method, prompt(4 + 2 * index), digest))
    requests.append(request("meteora too", prompt(6), sets["meteora"]))
    return requests


@pytest.fixture(scope="module")
def each_alone(world: World) -> dict[str, list[int]]:
    """The tokens of each of the mixed requests, by itself."""
    session = Session(world, prefix_cache=False)
    requests = mixed_requests(session)
    tokens = {each.request_id: session.tokens([each])[each.request_id] for each in requests}
    session.close()
    assert len({tuple(each) for each in tokens.values()}) > len(tokens) // 2
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "overlaps"),
    [({}, False), ({"max_step_tokens": 13}, True)],
    ids=["roomy", "small-chunks-overlapped"],
)
def test_each_request_of_a_mixed_batch_is_as_alone(
    world: World,
    each_alone: dict[str, list[int]],
    options: dict[str, object],
    overlaps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if overlaps:
        monkeypatch.setattr(ModelRunner, "overlaps", True)
    together = Session(world, **options)
    assert together.tokens(mixed_requests(together)) == each_alone
    together.close()


def test_a_composition_is_its_weighted_sum(session: Session, world: World) -> None:
    """With a part of weight 0 it is the other part; with two of these it is the base."""
    path = world.adapters[3]
    digest = session.load(path).info.digest
    twin = session.load(world.adapters[4]).info.digest
    prompt = list(range(3, 20))
    named = session.tokens([request("named", prompt, digest)])["named"]
    whole = {digest: 1.0, twin: 0.0}
    assert session.tokens([request("sum", prompt, parts=whole)])["sum"] == named
    none = {digest: 0.0, twin: 0.0}
    base = session.tokens([request("base", prompt)])["base"]
    assert session.tokens([request("none", prompt, parts=none)])["none"] == base != named


def test_prefixes_are_shared_by_equal_compositions_alone(session: Session, world: World) -> None:
    one, two = (session.load(path).info.digest for path in world.adapters[:2])
    prompt = random_tokens(torch.Generator().manual_seed(9), 40)
    parts = {one: 0.5, two: 0.5}

    def num_cached(name: str, parts: Mapping[str, float]) -> int:
        return session.outputs([request(name, prompt, parts=parts)])[name][0].num_cached_tokens

    assert num_cached("first", parts) == 0
    assert num_cached("again", parts) == 32
    assert num_cached("other weight", {one: 0.5, two: 0.25}) == 0
    assert num_cached("fewer parts", {one: 0.5}) == 0
    prefixes = session.parts.memory.prefixes
    assert prefixes.num_pages_of(one) == prefixes.num_pages_of(two) == 0
    assert session.stats().num_pages_cached_prefix > 0


@pytest.mark.parametrize("method", METHODS)
def test_routing_is_told_token_by_token(session: Session, method: str) -> None:
    info = session.load_set(method).info
    assert info.routed is not None
    prompt = list(range(5, 16))
    asked = request("asked", prompt, info.digest, returns_routing=True)
    silent = request("silent", prompt, info.digest)
    outputs = session.outputs([asked, silent])
    assert all(output.routing is None for output in outputs["silent"])
    for mine, other in zip(outputs["asked"], outputs["silent"], strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.routing is not None
        (weights,) = mine.routing
        is_by_rank = info.routed.by_rank
        assert len(weights) == (info.max_rank if is_by_rank else len(info.routed.experts))
        assert all(0.0 <= weight <= 1.0 for weight in weights)
        if method == "mora":  # shares of all, of which some are under the threshold
            assert 0.0 < sum(weights) < 1.0
        else:
            assert sum(weights) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_preempted_requests_answer_and_tell_their_routing_as_before(world: World) -> None:
    def requests(session: Session) -> list[AddRequest]:
        digest = session.load_set("meteora").info.digest
        first, second = (session.load(path).info.digest for path in world.adapters[:2])
        generator = torch.Generator().manual_seed(3)
        made = [
            request(
                f"r{i}", random_tokens(generator, 14), digest, returns_routing=True, max_tokens=8
            )
            for i in range(3)
        ]
        prompt = random_tokens(generator, 15)
        return [*made, request("sum", prompt, parts={first: 1.5, second: -1.0}, max_tokens=8)]

    roomy = Session(world)
    expected = roomy.outputs(requests(roomy))
    num_adapter_pages = sum(
        roomy.parts.memory.residency.num_pages(digest)
        for digest in roomy.parts.memory.residency.resident()
    )
    roomy.close()
    short = Session(world, num_pages=num_adapter_pages + 5)
    outputs = short.outputs(requests(short))
    assert short.stats().num_preemptions > 0
    short.close()
    for name, before in expected.items():
        assert [each.token_ids for each in outputs[name]] == [each.token_ids for each in before]
        for mine, other in zip(outputs[name], before, strict=True):
            assert (mine.routing is None) == (other.routing is None) == (name == "sum")
            if mine.routing is not None and other.routing is not None:
                assert mine.routing[0] == pytest.approx(other.routing[0], abs=1e-4)
