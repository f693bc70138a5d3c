"""Decodes that are replayed: the same logits as launch by launch, and nothing else touched.

A graph is stood in for by what it does: the work runs again, over the same tensors. So all but the
capture itself is tested without a GPU.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.engine.batch_arrays import BatchArrays
from motet.engine.decode_graphs import DecodeGraphs, ladder, rank_class
from motet.engine.last_tokens import LastTokens
from motet.engine.runner import ModelRunner, PendingTokens
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import Kernels
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.unified import unified_memory
from motet.models.decoder import Decoder
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch
from tests.engine.decode_cases import (
    CPU,
    MAX_MODEL_LEN,
    MAX_RUNNING,
    PAGE_SIZE,
    DecodeWorld,
    tiny_decoder,
)


class Rerun:
    """Stands for the capture of a graph. Counts what is captured and what is replayed."""

    def __init__(self) -> None:
        self.num_captures = 0
        self.num_replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.num_captures += 1
        work()

        def replay() -> None:
            self.num_replays += 1
            work()

        return replay


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return tiny_decoder(tmp_path_factory.mktemp("model"))


def graphs_of(world: DecodeWorld, capture: Rerun) -> DecodeGraphs:
    return DecodeGraphs(
        world.decoder,
        world.pool,
        ReferenceKernels(),
        capture,
        max_running=MAX_RUNNING,
        max_model_len=MAX_MODEL_LEN,
    )


def eager_logits(world: DecodeWorld, arrays: BatchArrays) -> Tensor:
    """The batch launch by launch, without any padding."""
    runner = ModelRunner(world.decoder, world.pool, ReferenceKernels(), world.table)
    with torch.inference_mode():
        return runner._compute(arrays)[0].clone()


def last_tokens() -> LastTokens:
    return LastTokens(MAX_RUNNING, CPU)


def poisoned(world: DecodeWorld, arrays: BatchArrays) -> Tensor:
    """The pool with what the step has to write as NaN; a copy of it."""
    flat = world.pool.data.view(world.pool.data.shape[0], -1, 2, PAGE_SIZE, 32)
    for slot in arrays.kv_slots.tolist():
        flat[:, slot // PAGE_SIZE, :, slot % PAGE_SIZE] = torch.nan
    return world.pool.data.clone()


def num_changed(before: Tensor, after: Tensor) -> int:
    return int((before.view(torch.int32) != after.view(torch.int32)).sum())


@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=MAX_RUNNING),
    max_rank=st.sampled_from([1, 4, 16, 17, 20]),
)
@settings(max_examples=25, deadline=None)
def test_a_replay_gives_the_logits_of_the_launches_and_writes_no_more(
    decoder: Decoder, seed: int, slots: list[int | None], max_rank: int
) -> None:
    world = DecodeWorld(decoder, seed, num_adapters=3, max_rank=max_rank)
    for slot in slots:
        world.add(slot)
    arrays = world.batch(world.sequences)
    assert arrays.is_decode
    before = poisoned(world, arrays)
    expected = eager_logits(world, arrays)
    assert expected.isfinite().all()
    written = world.pool.data.clone()
    num_kv_elems = 2 * world.geometry.shape.kv_size * world.geometry.shape.num_layers
    assert num_changed(before, written) == len(slots) * num_kv_elems
    poisoned(world, arrays)
    capture = Rerun()
    graphs = graphs_of(world, capture)
    actual = graphs.run(arrays, world.max_rank(arrays), last_tokens())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(world.pool.data, written, rtol=0, atol=1e-5, equal_nan=True)
    assert num_changed(before, world.pool.data) == len(slots) * num_kv_elems
    assert (capture.num_captures, capture.num_replays) == (1, 1)


def test_one_graph_serves_all_batches_of_its_size_and_class(decoder: Decoder) -> None:
    """Whatever ran before it: other sequences, more of them, longer ones, with other adapters."""
    world = DecodeWorld(decoder, 3, num_adapters=3, max_rank=4)
    for slot in (0, 1, 2, None, 0, 1, None, 2, 0, 1):
        world.add(slot)
    capture = Rerun()
    graphs = graphs_of(world, capture)
    for _ in range(12):
        size = world.rng.choice([5, 6, 7, 8])
        arrays = world.batch(world.rng.sample(world.sequences, size))
        expected = eager_logits(world, arrays)
        actual = graphs.run(arrays, world.max_rank(arrays), last_tokens())
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
        world.load(world.rng.randrange(3), 4)  # a slot that has another adapter from now on
    assert (capture.num_captures, capture.num_replays) == (1, 12)


def test_a_base_batch_runs_no_lora_kernel_and_a_low_rank_no_high_class(decoder: Decoder) -> None:
    world = DecodeWorld(decoder, 4, num_adapters=2, max_rank=3)
    for slot in (None, None, 0, 1):
        world.add(slot)
    ranks = []

    class Watched(ReferenceKernels):
        @staticmethod
        def shrink(*arguments: object) -> Tensor:
            ranks.append(arguments[3].max_rank)  # type: ignore[attr-defined]
            return ReferenceKernels.shrink(*arguments)  # type: ignore[arg-type]

    graphs = DecodeGraphs(
        decoder, world.pool, Watched(), Rerun(), max_running=4, max_model_len=MAX_MODEL_LEN
    )
    base, mixed = world.sequences[:2], world.sequences
    graphs.run(world.batch(base), 0, last_tokens())
    assert ranks == []
    graphs.run(world.batch(mixed), 3, last_tokens())
    assert {*ranks} == {16}


def test_the_start_captures_each_size_without_and_with_adapters_and_touches_no_page(
    decoder: Decoder,
) -> None:
    world = DecodeWorld(decoder, 5, num_adapters=1, max_rank=4)
    world.add(0)
    before = world.pool.data.clone()
    capture = Rerun()
    graphs = graphs_of(world, capture)
    graphs.warm_up()
    assert capture.num_captures == 2 * len(ladder(MAX_RUNNING))
    assert num_changed(before, world.pool.data) == 0
    graphs.run(world.batch(world.sequences), 4, last_tokens())
    assert capture.num_captures == 2 * len(ladder(MAX_RUNNING))
    graphs.run(world.batch(world.sequences), 64, last_tokens())  # a class that was not
    assert capture.num_captures == 2 * len(ladder(MAX_RUNNING)) + 1


def test_every_batch_has_a_size_and_few_sequences_have_no_large_one() -> None:
    for max_running in (1, 2, 3, 100, 256, 300, 1000):
        sizes = ladder(max_running)
        assert sizes == sorted({*sizes})
        assert sizes[-1] == max_running
        assert sizes[0] == 1
        assert all(larger <= 2 * size for size, larger in pairwise(sizes))
    assert len(ladder(256)) == 13


def test_a_class_holds_its_ranks() -> None:
    assert [rank_class(rank) for rank in (0, 1, 16, 17, 64, 65, 256, 257)] == [
        *(0, 16, 16, 64, 64, 256, 256),
        1024,
    ]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("num_pages", [200, 9])
def test_generation_with_graphs_gives_the_tokens_of_generation_without(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, overlaps: bool, num_pages: int
) -> None:
    """Prefills and decodes, sequences that come, end and are preempted; greedy and drawn."""
    expected = generate(decoder, num_pages, None, ReferenceKernels())
    monkeypatch.setattr(ModelRunner, "overlaps", overlaps)
    capture = Rerun()
    assert generate(decoder, num_pages, capture, ReferenceKernels()) == expected
    assert capture.num_replays > 0


def generate(
    decoder: Decoder, num_pages: int, capture: Rerun | None, kernels: Kernels
) -> dict[str, list[int]]:
    world = DecodeWorld(decoder, 6, num_adapters=0, max_rank=1)
    memory = unified_memory(
        world.geometry,
        SavingPolicy(PageCosts()),
        page_bytes=1,
        num_pages=min(num_pages, world.pool.empty_slot),
        row_capacity=10,
        host_budget_pages=1,
    )
    scheduler = Scheduler(memory, max_step_tokens=24, max_running=MAX_RUNNING)
    graphs = None if capture is None else graphs_of(world, capture)
    runner = ModelRunner(decoder, world.pool, kernels, scheduler.pages.table, graphs)
    requests = [
        AddRequest(
            f"r{i}",
            [(7 * i + 3 * j) % 131 for j in range(3 + 2 * i)],
            SamplingParams(
                max_tokens=6 + i,
                temperature=[0.0, 0.9][i % 2],
                seed=i,
                stop_token_ids=tuple(range(i, 131, 17)),
                min_tokens=i % 3,
                num_logprobs=[None, 2, 0][i % 3],
            ),
            None,
        )
        for i in range(8)
    ]
    for request in requests:
        scheduler.add(request)
    output: dict[str, list[int]] = {request.request_id: [] for request in requests}
    in_flight = None
    while scheduler.num_running or scheduler.num_waiting or in_flight:
        if in_flight is not None and not (runner.overlaps and scheduler.may_run_ahead):
            take(scheduler, in_flight, output)
            in_flight = None
        batch = scheduler.schedule().batch
        before = in_flight
        in_flight = (batch, runner.launch(batch)) if batch.chunks else None
        if before is not None:
            take(scheduler, before, output)
    scheduler.check()
    return output


def take(
    scheduler: Scheduler, step: tuple[Batch, PendingTokens], output: dict[str, list[int]]
) -> None:
    batch, pending = step
    for each in scheduler.commit(batch, pending.wait(), pending.logprobs()):
        output[each.request_id] += each.token_ids
        if each.logprobs is not None:  # of the graph's logits, before the next replay
            assert [told.token_id for told in each.logprobs] == each.token_ids
            assert all(told.logprob <= 0 for told in each.logprobs)
