"""The LoRA kernels against what they cannot beat, measured side by side in one run.

Decode (one token for each of 32 adapters of mixed ranks) is held against its byte floor: the bytes
of the rank rows touched, read once at the bandwidth measured in the same round. Prefill (512 tokens
of 4 adapters) is held against the dense products of the same sizes with the rows already adjacent.
Also reported: what one call costs when there is nothing to do.

Run: python benchmarks/kernels_lora.py [--device cpu|cuda] [--rounds N]
The last line is one JSON object. Ratios are medians over rounds, with the quartiles.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.types import LoraPairs, LoraTables, Projection

HIDDEN, KV, INTERMEDIATE, NUM_LAYERS = 576, 192, 1536, 30  # SmolLM2-135M
WIDTHS = (
    (HIDDEN, HIDDEN),
    (HIDDEN, KV),
    (HIDDEN, KV),
    (HIDDEN, HIDDEN),
    (HIDDEN, INTERMEDIATE),
    (HIDDEN, INTERMEDIATE),
    (INTERMEDIATE, HIDDEN),
)
SIBLINGS = (
    (Projection(0, 0, HIDDEN), Projection(1, HIDDEN, KV), Projection(2, HIDDEN + KV, KV)),
    (Projection(3, 0, HIDDEN),),
    (Projection(4, 0, INTERMEDIATE), Projection(5, INTERMEDIATE, INTERMEDIATE)),
    (Projection(6, 0, HIDDEN),),
)
PAGE_ELEMS = 2 * 16 * KV
RANKS = (8, 16, 32, 64)
DECODE_SEGMENTS = (1,) * 32
PREFILL_SEGMENTS = (128,) * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = torch.device(options.device)
    kernels = load(device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    ranks = [RANKS[slot % len(RANKS)] for slot in range(len(DECODE_SEGMENTS))]
    pool, tables = build_pool(ranks, dtype, device)
    result = {
        "device": str(device),
        "dtype": str(dtype)[6:],
        "num_threads": torch.get_num_threads(),
        "ranks": sorted(set(ranks)),
        "decode": decode(kernels, pool, tables, ranks, options.rounds),
        "prefill": prefill(kernels, pool, tables, ranks, options.rounds),
        "empty_call_us": empty_calls(kernels, pool, tables, options.rounds),
    }
    print(json.dumps(result))


def load(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        from motet.kernels import lora_cpu

        return lora_cpu
    from motet.kernels import lora_triton

    return lora_triton


def build_pool(
    ranks: list[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, LoraTables]:
    """Rows packed into pages that lie in random order; their values do not matter here."""
    entries: list[tuple[int, int, int]] = []  # layer, page, position
    page, at = [0] * NUM_LAYERS, [0] * NUM_LAYERS
    run_starts = torch.zeros(len(ranks), NUM_LAYERS, len(WIDTHS), 2, dtype=torch.int32)
    for slot, rank in enumerate(ranks):
        for layer in range(NUM_LAYERS):
            for module, sides in enumerate(WIDTHS):
                for side, width in enumerate(sides):
                    run_starts[slot, layer, module, side] = len(entries)
                    for _ in range(rank):
                        if at[layer] + width > PAGE_ELEMS:
                            page[layer], at[layer] = page[layer] + 1, 0
                        entries.append((layer, page[layer], at[layer]))
                        at[layer] += width
    num_pages = max(page) + 1
    place = torch.tensor(entries)
    shuffled = torch.randperm(num_pages)[place[:, 1]]
    row_offsets = (place[:, 0] * num_pages + shuffled) * PAGE_ELEMS + place[:, 2]
    rank_table = torch.tensor(ranks, dtype=torch.int32)[:, None, None]
    rank_table = rank_table.expand(-1, NUM_LAYERS, len(WIDTHS)).contiguous()
    shape = (NUM_LAYERS, num_pages, PAGE_ELEMS)
    if device.type == "cpu":
        pool = zeros_on_huge_pages(shape, dtype)  # as the engine's
    else:
        pool = torch.empty(shape, dtype=dtype, device=device)
    pool.fill_(0.01)
    return pool, LoraTables(row_offsets.to(device), run_starts.to(device), rank_table.to(device))


def build_pairs(segments: tuple[int, ...], max_rank: int, device: torch.device) -> LoraPairs:
    counts = torch.tensor(segments)
    num_pairs = int(counts.sum())
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return LoraPairs(
        tokens=torch.arange(num_pairs, dtype=torch.int32, device=device),
        slots=torch.arange(len(segments)).repeat_interleave(counts).int().to(device),
        weights=torch.ones(num_pairs, device=device),
        segment_starts=starts.int().to(device),
        max_rank=max_rank,
    )


def all_layers(
    kernels: ModuleType, pool: Tensor, tables: LoraTables, pairs: LoraPairs
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The shrinks, and the expands, of every linear layer of the model in one step."""
    in_features = [WIDTHS[siblings[0].module][0] for siblings in SIBLINGS]
    out_features = [sum(p.out_features for p in siblings) for siblings in SIBLINGS]
    inputs = [pool.new_ones(pairs.num_pairs, width) for width in in_features]
    outputs = [pool.new_zeros(pairs.num_pairs, width) for width in out_features]
    shrunk = [
        kernels.shrink(x, pool, tables, pairs, 0, siblings)
        for x, siblings in zip(inputs, SIBLINGS, strict=True)
    ]

    def shrink_all() -> None:
        for layer in range(NUM_LAYERS):
            for x, siblings in zip(inputs, SIBLINGS, strict=True):
                kernels.shrink(x, pool, tables, pairs, layer, siblings)

    def expand_all() -> None:
        for layer in range(NUM_LAYERS):
            for v, y, siblings in zip(shrunk, outputs, SIBLINGS, strict=True):
                kernels.expand(v, pool, tables, pairs, layer, siblings, y)

    return shrink_all, expand_all


def decode(
    kernels: ModuleType, pool: Tensor, tables: LoraTables, ranks: list[int], rounds: int
) -> dict[str, object]:
    pairs = build_pairs(DECODE_SEGMENTS, max(ranks), pool.device)
    shrink_all, expand_all = all_layers(kernels, pool, tables, pairs)
    num_rows = NUM_LAYERS * sum(ranks)
    shrink_elems = num_rows * sum(width for width, _ in WIDTHS)
    expand_elems = num_rows * sum(width for _, width in WIDTHS)
    flat = pool.view(-1)
    timed = measure(
        {
            "shrink": shrink_all,
            "shrink_floor": lambda: flat[:shrink_elems].sum(),
            "expand": expand_all,
            "expand_floor": lambda: flat[-expand_elems:].sum(),
        },
        rounds,
        pool.device,
    )
    floor_bytes = shrink_elems * pool.element_size()
    return {
        "shrink_over_byte_floor": ratio(timed["shrink"], timed["shrink_floor"]),
        "expand_over_byte_floor": ratio(timed["expand"], timed["expand_floor"]),
        "shrink_bytes": floor_bytes,
        "measured_bandwidth_gb_per_s": round(
            floor_bytes / statistics.median(timed["shrink_floor"]) / 1e9, 1
        ),
    }


def prefill(
    kernels: ModuleType, pool: Tensor, tables: LoraTables, ranks: list[int], rounds: int
) -> dict[str, object]:
    pairs = build_pairs(PREFILL_SEGMENTS, max(ranks), pool.device)
    shrink_all, expand_all = all_layers(kernels, pool, tables, pairs)
    count = PREFILL_SEGMENTS[0]
    used = ranks[: len(PREFILL_SEGMENTS)]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=pool.dtype, device=pool.device)

    down = [(random(count, i), random(rank, i)) for i, _ in WIDTHS for rank in used]
    up = [
        (random(count, o), random(count, rank), random(rank, o)) for _, o in WIDTHS for rank in used
    ]

    def dense_shrink() -> None:
        for _ in range(NUM_LAYERS):
            for x, a in down:
                x @ a.T

    def dense_expand() -> None:
        for _ in range(NUM_LAYERS):
            for y, v, b in up:
                y.addmm_(v, b)

    timed = measure(
        {
            "shrink": shrink_all,
            "dense_shrink": dense_shrink,
            "expand": expand_all,
            "dense_expand": dense_expand,
        },
        rounds,
        pool.device,
    )
    return {
        "shrink_over_dense_products": ratio(timed["shrink"], timed["dense_shrink"]),
        "expand_over_dense_products": ratio(timed["expand"], timed["dense_expand"]),
    }


def empty_calls(
    kernels: ModuleType, pool: Tensor, tables: LoraTables, rounds: int
) -> dict[str, float]:
    """Microseconds of an empty call (an adapter that touches nothing), the least of all rounds."""
    untouched = LoraTables(tables.row_offsets, tables.run_starts, torch.zeros_like(tables.ranks))
    shrink_all, expand_all = all_layers(
        kernels, pool, untouched, build_pairs((1,), max(RANKS), pool.device)
    )
    timed = measure({"shrink": shrink_all, "expand": expand_all}, rounds, pool.device)
    calls = NUM_LAYERS * len(SIBLINGS)
    return {k: round(min(t) / calls * 1e6, 1) for k, t in timed.items()}


def measure(
    functions: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each function by round. They take turns; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            synchronize(device)
            start_s = time.perf_counter()
            function()
            synchronize(device)
            times[name].append(time.perf_counter() - start_s)
    return {name: seconds[1:] for name, seconds in times.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratio(times: list[float], floors: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratio, round by round."""
    low, median, high = statistics.quantiles(
        [t / f for t, f in zip(times, floors, strict=True)], n=4
    )
    return {"median": round(median, 2), "q1": round(low, 2), "q3": round(high, 2)}


if __name__ == "__main__":
    main()
