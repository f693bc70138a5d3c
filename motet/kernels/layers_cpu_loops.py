"""All layers of a decoder as one compiled call, float32.

Owns: the order of a layer's kernels on a CPU, and where their results lie in the workspace.
Does not know: torch, nor what a kernel does. A tensor comes in as the address of its first element.

Between two kernels, Python takes 20 to 50 microseconds, since what they read has pushed it out of
the caches; with adapters there are 17 kernels in a layer. `models/decoder.py` has the same order in
readable form; tests hold the two together.
"""

from typing import Any

from numba import int64, prange

from motet.kernels.attention_cpu_loops import Batch, attend_batch
from motet.kernels.compiled import compiled, floats
from motet.kernels.fused_cpu_loops import add_rms_norm, rotate_and_write_kv, silu_mul
from motet.kernels.linear_cpu_loops import multiply
from motet.kernels.lora_cpu_loops import Pairs, expand, shrink
from motet.kernels.routing_cpu_loops import Routed, laid_pairs, laid_partial, shrink_routed

QKV, O, GATE_UP, DOWN = 0, 1, 2, 3  # noqa: E741 - the projection's usual name
"""Linear projections of a layer, as the tables number them."""

PANELS, SCALES, BIAS = 0, 1, 2
"""Addresses of a projection in one layer; 0 is none."""

OUT_FEATURES, IN_FEATURES, SIBLINGS, NUM_SIBLINGS = 0, 1, 2, 3
"""What a projection is in all layers; SIBLINGS is the address of `lora_cpu_loops.Siblings`."""

ATTENTION_NORM, MLP_NORM, HEAD_NORM, ROTARY, WINDOW = 0, 1, 2, 3, 4
"""The rest of a layer: addresses, 0 being none, and how many keys a token sees at most."""

Model = tuple[Any, Any, Any, Any, int, float, Any]
"""A number of the weights' type, see `tiles_cpu.multiply_panel`; int64 tables of the linear
projections, [num_layers, 4, 3], of what they are in all layers, [4, 4], and of the rest,
[num_layers, 5]; bytes of a weight; eps of the norms; factor on the scores of attention."""

Heads = tuple[int, int, int]
"""Heads of q, KV heads, head_dim."""

Tokens = tuple[int, int, int]
"""How many; addresses of their int64 positions and KV slots."""

Pool = tuple[int, int, int]
"""Its address, bytes of a layer, page_size."""

Lora = tuple[tuple[int, int, int, int], Pairs, int, int, int, Routed]
"""Addresses of row_offsets, run_starts and ranks, and the number of layers; fixed pairs, of no
segment in a batch without; address of their weights; address of v, and its rows; routed tokens, of
no segment in a batch without."""

Workspace = tuple[int, ...]
"""Addresses of float32 rows, one a token: normed, qkv, attended, delta, gate_up, activated."""

NUM_MODULES = 7


@compiled(parallel=True)
def _add_bias(y: int, bias: int, num_rows: int, width: int, num_threads: int) -> None:
    for i in prange(num_threads):
        b = floats(bias, 0, width)
        for row in range(num_rows * i // num_threads, num_rows * (i + 1) // num_threads):
            y_row = floats(y, row * width, width)
            for k in range(width):
                y_row[k] += b[k]


@compiled()
def _project(
    model: Model,
    lora: Lora,
    pool: int,
    layer: int,
    projection: int,
    x: int,
    y: int,
    num_rows: int,
    num_threads: int,
) -> None:
    """y = W x + b, and the adapters' terms on top."""
    kind, linears, projections, _, weight_bytes, _, _ = model
    out_features, in_features = (
        projections[projection, OUT_FEATURES],
        projections[projection, IN_FEATURES],
    )
    x_rows, y_rows = (x, in_features, in_features), (y, out_features, out_features)
    (row_offsets, run_starts, ranks, num_layers), pairs, weights, v, num_v_rows, routed = lora
    has_pairs, has_routed = pairs[4] > 0, routed[0][4] > 0
    tables = (row_offsets, run_starts, ranks, layer * NUM_MODULES, num_layers * NUM_MODULES)
    siblings = (projections[projection, SIBLINGS], projections[projection, NUM_SIBLINGS])
    partial = (v, siblings[1] * num_v_rows, num_v_rows)
    num_routed_segments = 0
    if has_pairs:
        shrink(tables, pairs, siblings, x_rows, pool, partial, num_threads)
    if has_routed:
        num_routed_segments = shrink_routed(tables, routed, siblings, x_rows, pool, num_threads)
    linear = linears[layer, projection]
    weight = (linear[PANELS], linear[SCALES], out_features, in_features, weight_bytes)
    multiply(kind, (x, in_features, num_rows), weight, (y, out_features, num_rows), num_threads)
    if linear[BIAS] != 0:
        _add_bias(y, linear[BIAS], num_rows, out_features, num_threads)
    if has_pairs:
        expand(tables, pairs, weights, siblings, partial, pool, y_rows, num_threads)
    if num_routed_segments > 0:
        laid, by_pair = routed[6], laid_partial(routed[7])
        pairs = laid_pairs(laid, num_routed_segments)
        expand(tables, pairs, laid[2], siblings, by_pair, pool, y_rows, num_threads)


@compiled()
def run_layers(
    model: Model,
    heads: Heads,
    residual: int,
    tokens: Tokens,
    pool: Pool,
    batch: Batch,
    lora: Lora,
    workspace: Workspace,
    num_threads: int,
) -> None:
    """Run all layers over a batch.

    The residual stream, float32 [num_tokens, hidden_size], is changed in place; the last term of
    the last layer is left in the workspace's delta, and not added to it.
    """
    _, _, projections, rest, _, eps, scale = model
    num_heads, num_kv_heads, head_dim = heads
    num_tokens, positions, kv_slots = tokens
    pool_address, layer_bytes, page_size = pool
    normed, qkv, attended, delta, gate_up, activated = workspace
    hidden_size = projections[QKV, IN_FEATURES]
    num_all_heads = num_heads + 2 * num_kv_heads
    for layer in range(len(rest)):
        norm, mlp_norm = rest[layer, ATTENTION_NORM], rest[layer, MLP_NORM]
        pages = pool_address + layer * layer_bytes
        add_rms_norm(
            residual,
            delta if layer > 0 else int64(0),
            norm,
            normed,
            num_tokens,
            hidden_size,
            eps,
            num_threads,
        )
        _project(model, lora, pool_address, layer, QKV, normed, qkv, num_tokens, num_threads)
        rotate_and_write_kv(
            qkv,
            num_tokens,
            (num_all_heads, num_kv_heads, head_dim),
            (rest[layer, HEAD_NORM], eps, rest[layer, ROTARY]),
            positions,
            pages,
            kv_slots,
            page_size,
            num_threads,
        )
        attend_batch(
            (qkv, num_all_heads * head_dim, num_heads),
            (attended, num_heads * head_dim, num_heads),
            (pages, page_size, num_kv_heads, head_dim),
            batch,
            rest[layer, WINDOW],
            scale,
            num_threads,
        )
        _project(model, lora, pool_address, layer, O, attended, delta, num_tokens, num_threads)
        add_rms_norm(residual, delta, mlp_norm, normed, num_tokens, hidden_size, eps, num_threads)
        _project(
            model, lora, pool_address, layer, GATE_UP, normed, gate_up, num_tokens, num_threads
        )
        width = projections[DOWN, IN_FEATURES]
        silu_mul(gate_up, activated, num_tokens, width, num_threads)
        _project(model, lora, pool_address, layer, DOWN, activated, delta, num_tokens, num_threads)
