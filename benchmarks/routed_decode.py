"""What routing costs a decode step on a CPU. Run `python -m benchmarks.routed_decode`.

The default model in float32, its layers and head, 16 sequences with 160 tokens of context, and 8
adapters of rank 16 on all projections. All sides take turns. The last line is one JSON object;
each ratio is a median over rounds, with the quartiles, of steps a second over those of one adapter
named for all sequences:

- routed: each token chooses 2 of the 8 in each projection, by gates of random weights
- routed_alike: all tokens choose the same 2 everywhere
- routed_all: all tokens choose all 8, the work of a dense product with a mask over the whole bank
- named_8: two sequences for each of the 8, which reads what `routed` reads, without gates
- composed_2: two of the 8 named for each sequence, weighted
- base: no adapter

`gates_over_base` is what gates and choices alone add to the base's step: `routed` with experts of
rank 0. `best` has the same ratios of the fastest steps, for a machine with other work to do.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numba
import torch
from torch import Tensor

from benchmarks.kernels_lora import NUM_LAYERS, PAGE_ELEMS, build_pool
from motet.bench.environment import describe_machine
from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.types import (
    AttentionBatch,
    LoraPairs,
    LoraTables,
    Round,
    RoutedTokens,
    Rule,
)
from motet.models.checkpoint import Checkpoint
from motet.models.config import load_config
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder
from motet.models.default_model import default_model_dir
from motet.models.weights import read_weights

NUM_SEQS, NUM_EXPERTS, RANK, TOP_K = 16, 8, 16, 2
CONTEXT, PAGE_SIZE = 160, 16
RANDOM_ROUTER, BIASED_ROUTER = NUM_EXPERTS, NUM_EXPERTS + 1
RANKS = [RANK] * NUM_EXPERTS + [NUM_EXPERTS, NUM_EXPERTS + 1]
DELTA_SCALE = 0.02
"""Of all elements of rank rows: small enough that the text stays a model's."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    num_threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads)
    numba.set_num_threads(num_threads)
    torch.manual_seed(0)
    pages_per_seq = CONTEXT // PAGE_SIZE + 1
    pool, tables = build_pool_with_kv(NUM_SEQS * pages_per_seq)
    sides = {name: LoraContext(tables, *each) for name, each in batches().items()}
    sides["gates"] = replace(sides["routed"], tables=without_experts(tables))
    step = decode_step(load_decoder(), pool, pages_per_seq)
    times: dict[str, list[float]] = {name: [] for name in [*sides, "base"]}
    for repeat in range(rounds + 2):
        for name in list(times)[:: 1 if repeat % 2 else -1]:
            start_s = time.perf_counter()
            step(sides.get(name))
            if repeat > 1:
                times[name].append(time.perf_counter() - start_s)
        print(f"round {repeat} of {rounds + 1}", end="\r", file=sys.stderr, flush=True)
    named = times["named"]
    best = {name: min(each) for name, each in times.items()}
    gates = [own / base - 1 for own, base in zip(times.pop("gates"), times["base"], strict=True)]
    figures = {
        **{
            name: quartiles([n / own for n, own in zip(named, each, strict=True)])
            for name, each in times.items()
            if name != "named"
        },
        "gates_over_base": quartiles(gates),
        "best": {name: round(best["named"] / each, 3) for name, each in best.items()},
        "step_ms": {name: round(statistics.median(t) * 1e3, 2) for name, t in times.items()},
        "machine": describe_machine("torch", "numba"),
    }
    print(json.dumps(figures))


def quartiles(values: list[float]) -> list[float]:
    """The median, and the quartiles around it."""
    low, median, high = (round(q, 3) for q in statistics.quantiles(values, n=4))
    return [median, low, high]


def load_decoder() -> Decoder:
    model_dir = default_model_dir()
    config = load_config(model_dir)
    with Checkpoint(model_dir) as checkpoint:
        weights = read_weights(config, checkpoint, torch.device("cpu"), torch.float32)
    return Decoder(config, weights)


def build_pool_with_kv(num_kv_pages: int) -> tuple[Tensor, LoraTables]:
    """Random adapters and routers behind so many pages of random KV."""
    adapters, tables = build_pool(RANKS, torch.float32, torch.device("cpu"))
    num_pages = adapters.shape[1]
    pool = zeros_on_huge_pages((NUM_LAYERS, num_kv_pages + num_pages, PAGE_ELEMS), torch.float32)
    pool.normal_(std=DELTA_SCALE)
    layer = tables.row_offsets // (num_pages * PAGE_ELEMS)
    offsets = tables.row_offsets + (layer + 1) * num_kv_pages * PAGE_ELEMS
    for starts in tables.run_starts[BIASED_ROUTER, :, :, 0].flatten().tolist():
        bias = pool.view(-1)[offsets[starts + NUM_EXPERTS] :][:NUM_EXPERTS]
        bias.fill_(0.0)
        bias[:TOP_K] = 100.0
    return pool, replace(tables, row_offsets=offsets)


def batches() -> dict[str, tuple[LoraPairs | None, RoutedTokens | None]]:
    """The adapters of each side: fixed pairs, and routed tokens."""
    two = [(seq, (seq // 2 + i * 3) % NUM_EXPERTS) for i in range(2) for seq in range(NUM_SEQS)]
    return {
        "named": (pairs([[(seq, 0) for seq in range(NUM_SEQS)]]), None),
        "named_8": (pairs([[(seq, seq // 2) for seq in range(NUM_SEQS)]]), None),
        "composed_2": (pairs([two[:NUM_SEQS], two[NUM_SEQS:]]), None),
        "routed": (None, routed(RANDOM_ROUTER, TOP_K, has_bias=False)),
        "routed_alike": (None, routed(BIASED_ROUTER, TOP_K, has_bias=True)),
        "routed_all": (None, routed(RANDOM_ROUTER, NUM_EXPERTS, has_bias=False)),
    }


def pairs(rounds: list[list[tuple[int, int]]]) -> LoraPairs:
    """Pairs of (token, slot), round by round."""
    tokens: list[int] = []
    slots: list[int] = []
    starts, begins = [0], []
    for each in rounds:
        begins.append(Round(len(starts) - 1, len(tokens)))
        for token, slot in sorted(each, key=lambda pair: pair[1]):
            if len(tokens) > begins[-1].first_pair and slots[-1] != slot:
                starts.append(len(tokens))
            tokens.append(token)
            slots.append(slot)
        starts.append(len(tokens))
    return LoraPairs(
        tokens=torch.tensor(tokens, dtype=torch.int32),
        slots=torch.tensor(slots, dtype=torch.int32),
        weights=torch.full((len(tokens),), 1 / len(rounds)),
        segment_starts=torch.tensor(starts, dtype=torch.int32),
        max_rank=RANK,
        rounds=tuple(begins),
    )


def routed(router: int, top_k: int, *, has_bias: bool) -> RoutedTokens:
    """One set that all tokens use."""
    rule = torch.zeros(1, len(Rule), dtype=torch.int32)
    rule[0, Rule.TOP_K], rule[0, Rule.HAS_BIAS] = top_k, has_bias
    gates = pairs([[(seq, router) for seq in range(NUM_SEQS)]])
    return RoutedTokens(
        gates=replace(gates, max_rank=NUM_EXPERTS + 1),
        sets=torch.zeros(NUM_SEQS, dtype=torch.int32),
        expert_slots=torch.arange(NUM_EXPERTS, dtype=torch.int32)[None],
        rules=rule,
        inverse_temperatures=torch.ones(1),
        thresholds=torch.full((1,), -torch.inf),
        max_choices=top_k,
        max_rank=RANK,
        usage=torch.zeros(NUM_SEQS, NUM_EXPERTS),
    )


def decode_step(
    decoder: Decoder, pool: Tensor, pages_per_seq: int
) -> Callable[[LoraContext | None], Tensor]:
    """A function that decodes a token of each sequence, the same ones each time."""
    pages = torch.arange(NUM_SEQS * pages_per_seq, dtype=torch.int32).view(NUM_SEQS, -1)
    attention = AttentionBatch(
        page_table=pages,
        query_starts=torch.arange(NUM_SEQS + 1, dtype=torch.int32),
        context_lens=torch.full((NUM_SEQS,), CONTEXT + 1, dtype=torch.int32),
        max_query_len=1,
        max_context_len=CONTEXT + 1,
        page_size=PAGE_SIZE,
    )
    rows = torch.arange(NUM_SEQS)
    token_ids = torch.randint(decoder.config.shape.vocab_size, (NUM_SEQS,))
    positions = torch.full((NUM_SEQS,), CONTEXT)
    kv_slots = pages[:, -1].long() * PAGE_SIZE
    kernels = CpuKernels()

    @torch.inference_mode()
    def step(lora: LoraContext | None) -> Tensor:
        ctx = ForwardContext(pool, kernels, attention, positions, kv_slots, lora)
        return decoder.forward(token_ids, rows, ctx)

    return step


def without_experts(tables: LoraTables) -> LoraTables:
    """The same, the experts having no rank rows."""
    ranks = tables.ranks.clone()
    ranks[:NUM_EXPERTS] = 0
    return replace(tables, ranks=ranks)


if __name__ == "__main__":
    main()
