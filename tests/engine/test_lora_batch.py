"""The pairs and routed tokens of a batch, against the same told token by token."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.core.messages import WeightedAdapter
from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import ModelShape
from motet.engine.batch_arrays import BatchArrays, batch_arrays
from motet.engine.lora_batch import lora_batch, max_fixed_rank
from motet.kernels.types import ABSOLUTE, OF_ALL, LoraPairs, Round, Rule
from motet.memory.device_pool import DevicePool
from motet.memory.geometry import PageGeometry
from motet.memory.members import Members, Router, member_slots
from motet.scheduler.page_table import PageTable
from motet.scheduler.sequence import ScheduledChunk
from tests.engine.test_batch_arrays import MAX_CHUNKS, chunk_of

NUM_SLOTS = 12
SHAPE = ModelShape(
    num_layers=1,
    hidden_size=4,
    intermediate_size=4,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=11,
)
RULES = (
    RoutingRule(top_k=2),
    RoutingRule(top_k=1, score=Score.ABSOLUTE, share=Share.OF_ALL, temperature=0.5, threshold=0.1),
    RoutingRule(top_k=2, per_block=True),
)
SLOTS = {f"d{slot}": slot for slot in range(NUM_SLOTS)}


def pool() -> DevicePool:
    pool = DevicePool(PageGeometry(SHAPE, 16), NUM_SLOTS, torch.float32, torch.device("cpu"))
    pool.max_ranks[:NUM_SLOTS] = np.arange(1, NUM_SLOTS + 1)
    return pool


def members(rng: random.Random, kind: str) -> Members:
    """A composition; or one of three sets, whose routers are in the first slots."""
    fixed = rng.sample(sorted(SLOTS), rng.randint(1, 5) if kind == "sum" else rng.randint(0, 2))
    parts = tuple(WeightedAdapter(digest, rng.random()) for digest in fixed)
    if kind == "sum":
        return Members(parts)
    number = int(kind)
    experts = ("d5", "d9", "d7")[: number + 1]
    return Members(parts, Router(f"d{number}", RULES[number], experts, len(experts), 1))


def batch(seed: int, kinds: list[str]) -> tuple[BatchArrays, DevicePool]:
    rng = random.Random(seed)
    table, device_pool = PageTable(MAX_CHUNKS), pool()
    chunks: list[ScheduledChunk] = []
    sets: dict[str, Members] = {}
    for kind in kinds:
        slot = rng.randrange(NUM_SLOTS) if kind == "plain" else None
        chunk = chunk_of(rng, table, 4, slot, rng.choice(["part", "prompt", "decode"]))
        if kind not in ("base", "plain"):
            seq = chunk.sequence
            made = members(rng, kind)
            seq.members = made if kind == "sum" else sets.setdefault(kind, made)
            seq.member_slots = member_slots(seq.members, SLOTS)
            seq.slot = next((slot for slot, _ in seq.member_slots.fixed), None)
        chunks.append(chunk)
    return batch_arrays(chunks, table, 4, device_pool.empty_slot), device_pool


def told(pairs: LoraPairs | None) -> Counter[tuple[int, int, float]]:
    """The pairs, whose order and segments are checked."""
    if pairs is None:
        return Counter()
    starts = pairs.segment_starts.tolist()
    assert (starts[0], starts[-1]) == (0, pairs.num_pairs)
    assert pairs.rounds[0] == Round(0, 0)
    ends = [*(each.first_pair for each in pairs.rounds[1:]), pairs.num_pairs]
    tokens, slots = pairs.tokens.tolist(), pairs.slots.tolist()
    for (first_segment, first_pair), end in zip(pairs.rounds, ends, strict=True):
        assert starts[first_segment] == first_pair < end
        of_round = slots[first_pair:end]
        assert of_round == sorted(of_round)
        assert len({*tokens[first_pair:end]}) == end - first_pair
    for start, end in pairwise(starts):
        assert len({*slots[start:end]}) == 1
    return Counter(zip(tokens, slots, pairs.weights.tolist(), strict=True))


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(
        st.sampled_from(["base", "plain", "sum", "0", "1", "2"]), min_size=1, max_size=MAX_CHUNKS
    ),
)
@settings(max_examples=200, deadline=None)
def test_each_token_has_its_adapters(seed: int, kinds: list[str]) -> None:
    arrays, device_pool = batch(seed, kinds)
    context = lora_batch(arrays, device_pool, max_fixed_rank(arrays, device_pool)).context
    fixed: Counter[tuple[int, int, float]] = Counter()
    routed: dict[bool, dict[int, Members]] = {False: {}, True: {}}
    ranks = [0]
    for index, chunk in enumerate(arrays.chunks):
        seq = chunk.sequence
        rows = range(*arrays.query_starts[index : index + 2].tolist())
        uses = [] if seq.slot is None else [(seq.slot, 1.0)]
        if seq.member_slots is not None:
            uses = [(slot, weight) for slot, weight in seq.member_slots.fixed]
        ranks += [slot + 1 for slot, _ in uses]
        fixed.update(
            (row, slot, float(np.float32(weight))) for row in rows for slot, weight in uses
        )
        if seq.members is not None and seq.members.router is not None:
            routed[seq.members.router.rule.per_block].update(dict.fromkeys(rows, seq.members))
    if context is None:
        assert {*kinds} == {"base"}
        return
    assert told(context.pairs) == fixed
    assert context.pairs is None or context.pairs.max_rank == max(ranks)
    for tokens, expected in ((context.routed, routed[False]), (context.blocks, routed[True])):
        assert (tokens is None) == (not expected)
        if tokens is None:
            continue
        of_gates = told(tokens.gates)
        assert len(tokens.gates.rounds) == 1
        assert {row: slot for row, slot, _ in of_gates} == {
            row: SLOTS[each.router.digest] for row, each in expected.items() if each.router
        }
        for row, a_set in zip(tokens.gates.tokens.tolist(), tokens.sets.tolist(), strict=True):
            router = expected[row].router
            assert router is not None
            slots = [SLOTS[digest] for digest in router.experts]
            assert tokens.expert_slots[a_set, : len(slots)].tolist() == slots
            assert tokens.rules[a_set, Rule.TOP_K] == router.rule.top_k
            is_second = router.rule is RULES[1]
            assert (tokens.rules[a_set, Rule.SCORE] == ABSOLUTE) == is_second
            assert (tokens.rules[a_set, Rule.SHARE] == OF_ALL) == is_second
            assert float(tokens.inverse_temperatures[a_set]) == 1.0 / router.rule.temperature
            assert (float(tokens.thresholds[a_set]) == -np.inf) == (not is_second)
            assert tokens.max_rank >= max(slots) + 1
            assert 1 <= tokens.max_choices >= min(router.rule.top_k, len(slots))
        assert tokens.usage.shape[0] == tokens.gates.num_pairs
        assert not tokens.usage.any()


def test_a_batch_of_plain_adapters_is_a_slice_in_one_round() -> None:
    arrays, device_pool = batch(3, ["plain", "base", "plain", "plain"])
    assert arrays.is_plain
    context = lora_batch(arrays, device_pool, 1).context
    assert context is not None
    assert context.pairs is not None
    assert context.pairs.tokens.tolist() == list(range(context.pairs.num_pairs))
    assert context.pairs.rounds == (Round(0, 0),)
    assert context.routed is context.blocks is None
