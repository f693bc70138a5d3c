"""How near is attention over pages to the bytes it must read, and to torch's dense attention?

Decode (32 sequences, context 160) and prefill (4 prompts of 128) at the shapes of SmolLM2-135M, on
the CPU's kernels or the GPU's. Beside each, in the same run: the time to read the same bytes, and
`scaled_dot_product_attention` on KV that is already dense and contiguous (what pages cost).
Run as `python -m benchmarks.kernels_attention`. The last line is JSON; times are medians in
microseconds, `spread_us` the quartiles.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from motet.kernels.types import AttentionBatch, HeadTransform, Kernels, load_kernels

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE = 9, 3, 64, 16
NUM_LAYERS = 30  # each call reads another layer, so that no cache flatters
SCALE = HEAD_DIM**-0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="passes over all layers")
    rounds = parser.parse_args().rounds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    report = {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "num_threads": torch.get_num_threads(),
        "decode_32x160": measure(device, dtype, rounds, [1] * 32, [160] * 32),
        "prefill_4x128": measure(device, dtype, rounds, [128] * 4, [128] * 4),
    }
    print(json.dumps(report))


def measure(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    query_lens: list[int],
    context_lens: list[int],
) -> dict[str, object]:
    """Attention, rotation with KV write, and their yardsticks, taking turns layer by layer."""
    kernels: Kernels = load_kernels(device)
    batch, pool = random_batch(device, dtype, query_lens, context_lens)
    num_tokens = sum(query_lens)
    qkv = torch.randn(
        num_tokens, NUM_HEADS + 2 * NUM_KV_HEADS, HEAD_DIM, device=device, dtype=dtype
    )
    q = qkv[:, :NUM_HEADS]
    positions, new_slots = places_of_new_tokens(batch, query_lens)
    angles = torch.rand(max(context_lens), HEAD_DIM // 2, device=device)
    rotary = torch.stack((angles.cos(), angles.sin()), dim=1).to(dtype)
    transform = HeadTransform(norm=None, eps=0.0, rotary=rotary)
    dense_q = q.reshape(len(query_lens), -1, NUM_HEADS, HEAD_DIM).transpose(1, 2).contiguous()
    dense_kv = torch.randn(
        NUM_LAYERS, 2, len(query_lens), NUM_KV_HEADS, context_lens[0], HEAD_DIM,
        device=device, dtype=dtype,
    )  # fmt: skip
    is_causal = query_lens[0] > 1

    def sdpa(layer: int) -> Tensor:
        return scaled_dot_product_attention(
            dense_q, dense_kv[layer, 0], dense_kv[layer, 1], is_causal=is_causal, enable_gqa=True
        )

    calls: dict[str, Callable[[int], object]] = {
        "rotate_and_write_kv": lambda layer: kernels.rotate_and_write_kv(
            qkv, transform, positions, pool, layer, new_slots, PAGE_SIZE, NUM_KV_HEADS
        ),
        "paged_attention": lambda layer: kernels.paged_attention(
            q, pool, layer, batch, NUM_KV_HEADS, SCALE, None
        ),
        "read_floor": lambda layer: dense_kv[layer].sum(),
        "sdpa_dense": sdpa,
    }
    times_us: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(rounds + 2):
        for layer in range(NUM_LAYERS):
            for name, call in calls.items():
                elapsed_us = time_us(call, layer, device)
                if round_index >= 2:  # the first rounds compile and warm up
                    times_us[name].append(elapsed_us)
    median_us = {name: statistics.median(times) for name, times in times_us.items()}
    return {
        "kv_bytes": dense_kv[0].numel() * dense_kv.element_size(),
        "median_us": {name: round(value, 1) for name, value in median_us.items()},
        "spread_us": {
            name: [round(x, 1) for x in statistics.quantiles(times, n=4)[::2]]
            for name, times in times_us.items()
        },
        "attention_over_read_floor": round(
            median_us["paged_attention"] / median_us["read_floor"], 2
        ),
        "attention_over_sdpa_dense": round(
            median_us["paged_attention"] / median_us["sdpa_dense"], 2
        ),
    }


def time_us(call: Callable[[int], object], layer: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start_s = time.perf_counter()
    call(layer)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start_s) * 1e6


def random_batch(
    device: torch.device, dtype: torch.dtype, query_lens: list[int], context_lens: list[int]
) -> tuple[AttentionBatch, Tensor]:
    """A pool of random KV, its pages dealt out at random."""
    num_pages = [-(-n // PAGE_SIZE) for n in context_lens]
    page_elems = 2 * PAGE_SIZE * NUM_KV_HEADS * HEAD_DIM
    pool = torch.randn(NUM_LAYERS, sum(num_pages), page_elems, device=device, dtype=dtype)
    order = torch.randperm(sum(num_pages)).to(torch.int32)
    page_table = torch.zeros(len(context_lens), max(num_pages), dtype=torch.int32)
    for i, pages in enumerate(torch.split(order, num_pages)):
        page_table[i, : len(pages)] = pages
    query_starts = torch.tensor([0, *query_lens], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    batch = AttentionBatch(
        page_table=page_table.to(device),
        query_starts=query_starts.to(device),
        context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
        max_query_len=max(query_lens),
        max_context_len=max(context_lens),
        page_size=PAGE_SIZE,
    )
    return batch, pool


def places_of_new_tokens(batch: AttentionBatch, query_lens: list[int]) -> tuple[Tensor, Tensor]:
    """Positions and KV slots, int64 [num_tokens] each."""
    all_positions, slots = [], []
    for i, query_len in enumerate(query_lens):
        context_len = int(batch.context_lens[i])
        positions = torch.arange(context_len - query_len, context_len)
        pages = batch.page_table[i].cpu().long()[positions // PAGE_SIZE]
        all_positions.append(positions)
        slots.append(pages * PAGE_SIZE + positions % PAGE_SIZE)
    device = batch.page_table.device
    return torch.cat(all_positions).to(device), torch.cat(slots).to(device)


if __name__ == "__main__":
    main()
