"""A decoder's layers on a CPU: one compiled call for all of them.

Owns: the tables of addresses that the call reads, and its workspace.
Does not know: the order of a layer's kernels (`kernels/layers_cpu_loops.py`).
"""

import numpy as np
import torch
from torch import Tensor

from motet.core.shape import GATE_UP, NUM_MODULES, QKV, ModelShape, Module
from motet.kernels import layers_cpu_loops as loops
from motet.kernels.attention_checks import check_pool
from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.linear_cpu import WEIGHT_KINDS, PackedMatrix
from motet.kernels.lora_cpu import (
    check_tables,
    num_partial_rows,
    pair_addresses,
    projection_table,
)
from motet.kernels.math_cpu import LOG2_E
from motet.kernels.routing_cpu import RoutedPairs, check_routed, most_gates, set_addresses
from motet.kernels.routing_cpu_loops import NO_LIMIT, Routed
from motet.kernels.simd_cpu import LANES
from motet.kernels.types import RoutedTokens
from motet.models.config import DecoderConfig
from motet.models.context import ForwardContext, LoraContext
from motet.models.layers import head_norm, side_by_side
from motet.models.matrix import Matrix
from motet.models.weights import DecoderWeights, LayerWeights

_SIBLINGS = (QKV, (Module.O,), GATE_UP, (Module.DOWN,))
_NO_WINDOW = 2**31  # no context is longer
_NO_PAIRS = (0,) * 7
_NOTHING_ROUTED = (_NO_PAIRS, (0,) * 8, (0, 0), 0, (0, 0), (0, 0), (0,) * 6, (0, 0))


class CompiledLayers:
    """All layers of a decoder that computes in float32 over packed matrices.

    Args:
        config: its shape and switches.
        weights: for which `can_compile` is true.
        rotary: cosines and sines, see `HeadTransform.rotary`.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, rotary: Tensor) -> None:
        shape = config.shape
        self._shape = shape
        self._head_norms = [head_norm(config, layer) for layer in weights.layers]
        self._kept = (weights, rotary)  # the tables hold their addresses
        linears = np.array([_linear_addresses(layer) for layer in weights.layers], np.int64)
        rest = [
            (
                layer.attention_norm.data_ptr(),
                layer.mlp_norm.data_ptr(),
                0 if norm is None else norm.data_ptr(),
                rotary.data_ptr() if rotates else 0,
                window or _NO_WINDOW,
            )
            for layer, norm, rotates, window in zip(
                weights.layers,
                self._head_norms,
                config.rope_layers,
                config.sliding_windows,
                strict=True,
            )
        ]
        storage = _packed(weights.layers[0].qkv).panels.dtype
        self._model = (
            WEIGHT_KINDS[storage],
            linears,
            np.array([_projection(shape, modules) for modules in _SIBLINGS], np.int64),
            np.array(rest, np.int64),
            storage.itemsize,
            config.rms_norm_eps,
            np.float32(shape.head_dim**-0.5 * LOG2_E),
        )
        self._workspace = torch.empty(0)

    @staticmethod
    def can_compile(config: DecoderConfig, weights: DecoderWeights) -> bool:
        """Whether all of it is what the compiled loops take."""
        shape = config.shape
        widths = (shape.hidden_size, shape.q_size, shape.kv_size, shape.intermediate_size)
        matrices = [
            matrix
            for layer in weights.layers
            for matrix in (layer.qkv, layer.o, layer.gate_up, layer.down)
        ]
        storages = {
            matrix.panels.dtype if isinstance(matrix, PackedMatrix) else None for matrix in matrices
        }
        return (
            len(storages) == 1
            and None not in storages
            and all(width % LANES == 0 for width in widths)
            and shape.head_dim % LANES == 0
        )

    def run(self, residual: Tensor, ctx: ForwardContext) -> Tensor:
        """Run all layers over a batch.

        Args:
            residual: float32 [num_tokens, hidden_size], contiguous, changed in place.
            ctx: the batch, in float32. Its pages receive the new tokens' KV.

        Returns:
            The last term of the residual stream, [num_tokens, hidden_size], yet to be added. It
            lies in the workspace, and is good until the next call.
        """
        num_tokens = len(residual)
        attention, pool = ctx.attention, ctx.pool
        _check(residual, ctx, self._shape)
        page_table = attention.page_table.contiguous()
        workspace = self._workspace_for(num_tokens)
        lora, _kept = _lora(ctx.lora)  # what it has addresses of lives as long as the call
        loops.run_layers(
            self._model,
            (self._shape.num_heads, self._shape.num_kv_heads, self._shape.head_dim),
            residual.data_ptr(),
            (num_tokens, ctx.positions.data_ptr(), ctx.kv_slots.data_ptr()),
            (pool.data_ptr(), pool.stride(0) * pool.element_size(), attention.page_size),
            (
                page_table.data_ptr(),
                attention.query_starts.data_ptr(),
                attention.context_lens.data_ptr(),
                page_table.shape[1],
                attention.num_seqs,
            ),
            lora,
            tuple(part.data_ptr() for part in workspace),
            torch.get_num_threads(),
        )
        return workspace[3].view(num_tokens, -1)

    def _workspace_for(self, num_tokens: int) -> tuple[Tensor, ...]:
        """Room for what a layer computes on its way; see `layers_cpu_loops.Workspace`.

        It is kept from step to step: memory that is touched for the first time is slow.
        """
        shape = self._shape
        qkv_size = shape.q_size + 2 * shape.kv_size
        widths = (
            shape.hidden_size,
            qkv_size,
            shape.q_size,
            shape.hidden_size,
            2 * shape.intermediate_size,
            shape.intermediate_size,
        )
        sizes = [num_tokens * width for width in widths]
        if sum(sizes) > len(self._workspace):
            self._workspace = zeros_on_huge_pages((sum(sizes),), torch.float32)
        return torch.split(self._workspace[: sum(sizes)], sizes)


def _lora(lora: LoraContext | None) -> tuple[loops.Lora, tuple[object, ...]]:
    """The adapters of a batch, and what the addresses among it belong to."""
    if lora is None:
        return ((0, 0, 0, 0), _NO_PAIRS, 0, 0, 0, _NOTHING_ROUTED), ()
    tables, pairs = lora.tables, lora.pairs
    addresses = (
        tables.row_offsets.data_ptr(),
        tables.run_starts.data_ptr(),
        tables.ranks.data_ptr(),
        tables.ranks.shape[1],
    )
    routed, kept = _routed(lora.routed)
    if pairs is None:
        return (addresses, _NO_PAIRS, 0, 0, 0, routed), kept
    num_rows = num_partial_rows(pairs.max_rank)
    v = torch.empty(pairs.num_pairs * len(QKV) * num_rows)
    of_pairs = pair_addresses(pairs, NO_LIMIT)
    fixed = (of_pairs, pairs.weights.data_ptr(), v.data_ptr(), num_rows)
    return (addresses, *fixed, routed), (*kept, v)


def _routed(routed: RoutedTokens | None) -> tuple[Routed, tuple[object, ...]]:
    """Routed tokens and room for what their routers choose, and what owns that room."""
    if routed is None:
        return _NOTHING_ROUTED, ()
    chosen = RoutedPairs.room(routed, len(QKV))
    num_columns = num_partial_rows(routed.gates.max_rank)
    products = torch.empty(routed.gates.num_pairs * len(QKV) * num_columns)
    num_rows = num_partial_rows(routed.max_rank)
    v = torch.empty(len(chosen.tokens) * num_rows)
    addresses = (
        pair_addresses(routed.gates, NO_LIMIT),
        set_addresses(routed),
        (routed.usage.data_ptr(), routed.usage.shape[1]),
        most_gates(routed),
        (products.data_ptr(), num_columns),
        chosen.choice_addresses,
        chosen.laid_addresses,
        (v.data_ptr(), num_rows),
    )
    return addresses, (chosen, products, v)


def _packed(matrix: Matrix) -> PackedMatrix:
    assert isinstance(matrix, PackedMatrix)
    return matrix


def _linear_addresses(layer: LayerWeights) -> list[tuple[int, int, int]]:
    """Panels, scales and bias of each projection."""
    biases = (layer.qkv_bias, layer.o_bias, layer.gate_up_bias, layer.down_bias)
    matrices = map(_packed, (layer.qkv, layer.o, layer.gate_up, layer.down))
    return [
        (
            matrix.panels.data_ptr(),
            0 if matrix.scales is None else matrix.scales.data_ptr(),
            0 if bias is None else bias.data_ptr(),
        )
        for matrix, bias in zip(matrices, biases, strict=True)
    ]


def _projection(shape: ModelShape, modules: tuple[Module, ...]) -> tuple[int, int, int, int]:
    """What a projection is in all layers; see `layers_cpu_loops.OUT_FEATURES`."""
    out_features = sum(shape.out_features(module) for module in modules)
    siblings = projection_table(side_by_side(modules, shape))
    return out_features, shape.in_features(modules[0]), siblings.ctypes.data, len(modules)


def _check(residual: Tensor, ctx: ForwardContext, shape: ModelShape) -> None:
    """What the compiled loops rely on: a wrong dtype or stride there reads foreign memory."""
    num_tokens, attention = len(residual), ctx.attention
    assert ctx.pool.dtype == residual.dtype == torch.float32, "pool and residual must be float32"
    assert residual.is_contiguous(), "the residual must be contiguous"
    check_pool(ctx.pool, attention.page_size, shape.num_kv_heads, shape.head_dim)
    for name in ("positions", "kv_slots"):
        index = getattr(ctx, name)
        assert index.dtype == torch.int64, f"{name} is {index.dtype}, expected int64"
        assert index.shape == (num_tokens,), f"{name} must have an entry for each token"
        assert index.is_contiguous(), f"{name} must be contiguous"
    for name in ("page_table", "query_starts", "context_lens"):
        index = getattr(attention, name)
        assert index.dtype == torch.int32, f"{name} is {index.dtype}, expected int32"
    for name in ("query_starts", "context_lens"):
        assert getattr(attention, name).is_contiguous(), f"{name} must be contiguous"
    assert len(attention.query_starts) == attention.num_seqs + 1, (
        "query_starts must have an entry more than there are sequences"
    )
    assert len(attention.page_table) == attention.num_seqs, (
        "the page table must have a row for each sequence"
    )
    assert len(ctx.pool) == shape.num_layers, "the pool must have the model's layers"
    if ctx.lora is not None:
        assert ctx.lora.blocks is None, "MLP blocks with experts run layer by layer"
        if ctx.lora.pairs is not None:
            check_tables(ctx.lora.tables, ctx.lora.pairs)
        if ctx.lora.routed is not None:
            check_routed(ctx.lora.tables, ctx.lora.routed)
        assert ctx.lora.tables.ranks.shape[2] == NUM_MODULES, "the tables have other modules"
