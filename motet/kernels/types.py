"""What the kernels are given: tables over the page pool, and the make-up of one batch.

Owns: the layout of the device tables and of the per-step index tensors, and the `Kernels`
interface that the reference, CPU and Triton implementations share.
Does not know: who fills them (`memory/`, `engine/`), nor which modules a model has.

The pool is one tensor `[num_layers, num_pages, page_elems]`. A page holds either KV of `page_size`
tokens, viewed `[2, page_size, num_kv_heads, head_dim]`, or rank rows of adapters, packed one after
another, no row across a page's end.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoraTables:
    """Where the rank rows of each resident adapter lie in the pool. Shapes never change.

    Attributes:
        row_offsets: int64 [row_capacity]. Offset, in elements of the flattened whole pool, of a
            rank row: one row of A (`in_features` elements) or one column of B (`out_features`).
        run_starts: int32 [num_slots, num_layers, num_modules, 2]. First entry in `row_offsets` of
            the adapter's A rows (index 0) and B columns (index 1) for that layer and module.
        ranks: int32 [num_slots, num_layers, num_modules]. True rank; 0 where it is not touched.
    """

    row_offsets: Tensor
    run_starts: Tensor
    ranks: Tensor


class Round(NamedTuple):
    """Where a round of pairs begins; see `LoraPairs`."""

    first_segment: int
    first_pair: int


@dataclass(frozen=True, slots=True)
class LoraPairs:
    """The (token, slot, weight) pairs of a batch.

    Tokens of the base model have no pair and cost nothing. A token of several adapters has several
    pairs, in different rounds: within a round a projection of a token has at most one pair, so that
    what is added to a row can be added in parallel. A round's pairs are sorted by slot.

    Attributes:
        tokens: int32 [num_pairs]. Row of the batch.
        slots: int32 [num_pairs]. Row of the tables.
        weights: float32 [num_pairs]. Factor on the delta; an adapter's own scaling is in its rows.
        segment_starts: int32 [num_segments + 1]. Pairs of one segment share a slot. The last
            segments may be empty.
        max_rank: at least the rank of any layer and module of the adapters of this batch. It sizes
            v and grids; what a kernel reads is by the true ranks of the tables.
        siblings: int32 [num_pairs]. Bit s is set if the pair is for the s-th of the projections
            that a kernel is called with; pairs of one segment share these bits. None: all pairs
            are for all projections.
        rounds: where each begins, ascending; the first is at 0. No segment is in two.
    """

    tokens: Tensor
    slots: Tensor
    weights: Tensor
    segment_starts: Tensor
    max_rank: int
    siblings: Tensor | None = None
    rounds: tuple[Round, ...] = (Round(0, 0),)

    @property
    def num_pairs(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_segments(self) -> int:
        return self.segment_starts.shape[0] - 1


LINEAR, ABSOLUTE, SELF = range(3)
"""A rule's score: the product with the gate; its magnitude; A x of the expert over its norm."""

OF_CHOSEN, OF_ALL, EQUAL = range(3)
"""A rule's share: softmax over the chosen gates; softmax over all gates; 1."""


class Rule(IntEnum):
    """Columns of `RoutedTokens.rules`."""

    TOP_K = 0
    SCORE = 1
    SHARE = 2
    BY_RANK = 3
    HAS_BIAS = 4


@dataclass(frozen=True, slots=True)
class RoutedTokens:
    """Tokens whose adapters a router chooses, in each projection anew.

    A router lies in the pool as an adapter does, in a slot of its own, without B: its rows of A
    are its gates, one for each expert, or (`BY_RANK`) one for each rank of its only expert. With
    `HAS_BIAS` one more row follows, which begins with the gates' biases. Where it has no rows in a
    layer and module, its experts are not used there; with the score `SELF` it has none anywhere,
    and the only expert is used wherever it has rank rows.

    Attributes:
        gates: a pair of each token with its router's slot, one round; the weights are not used.
        sets: int32 [num_pairs of gates]. Row of each token's set in what follows.
        expert_slots: int32 [num_sets, most experts]. Slots of each set's experts in the order of
            the gates; entries past its experts are unused.
        rules: int32 [num_sets, len(Rule)].
        inverse_temperatures: float32 [num_sets].
        thresholds: float32 [num_sets]. Lowest score that may be chosen; -inf where there is none.
        max_choices: at least `TOP_K`, limited to the number of experts, of any set that does not
            gate ranks, and at least 1.
        max_rank: at least the rank of any expert, as in `LoraPairs`.
        usage: float32 [num_pairs of gates, most gates]. The weight of each gate is added to it, in
            each layer and module that the router is used in.
    """

    gates: LoraPairs
    sets: Tensor
    expert_slots: Tensor
    rules: Tensor
    inverse_temperatures: Tensor
    thresholds: Tensor
    max_choices: int
    max_rank: int
    usage: Tensor


class Projection(NamedTuple):
    """One of several sibling projections whose outputs lie side by side in a merged tensor.

    Attributes:
        module: its column in the LoRA tables.
        out_start: its first column in the merged output.
        out_features: its number of columns.
    """

    module: int
    out_start: int
    out_features: int


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which tokens of a batch belong to which sequence, and where its KV pages are.

    Sequence i has the tokens `query_starts[i]:query_starts[i + 1]` of the batch; they are its last
    ones, and with them its context is `context_lens[i]` tokens long.

    Attributes:
        page_table: int32 [num_seqs, max_pages_per_seq]. Page ids; entries past the end are unused.
        query_starts: int32 [num_seqs + 1].
        context_lens: int32 [num_seqs].
        max_query_len: at least the tokens of any one sequence in this batch.
        max_context_len: at least the longest context in this batch. A captured graph has the
            longest there can be.
        page_size: KV tokens in a page.
    """

    page_table: Tensor
    query_starts: Tensor
    context_lens: Tensor
    max_query_len: int
    max_context_len: int
    page_size: int

    @property
    def num_seqs(self) -> int:
        return self.context_lens.shape[0]


@dataclass(frozen=True, slots=True)
class HeadTransform:
    """What the heads of q and k go through in one layer before they meet.

    Attributes:
        norm: RMSNorm weights, [num_heads + num_kv_heads, head_dim], a row for each head of q and
            then of k; None where they are not normed.
        eps: of that norm.
        rotary: [max_positions, 2, head_dim // 2], cosines and sines of each position, in the
            model's dtype; None where they are not rotated.
    """

    norm: Tensor | None
    eps: float
    rotary: Tensor | None


class Kernels(Protocol):
    """What a step needs from its device. Implementations: reference, CPU, Triton.

    Attributes:
        runs_compiled_layers: whether one compiled call for all layers does what these kernels do
            one by one; see `layers_cpu_loops.py`.
    """

    runs_compiled_layers: bool

    def add_rms_norm(
        self, residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float
    ) -> Tensor:
        """residual += delta, in place; returns residual / sqrt(mean(residual^2) + eps) * weight.

        residual and delta are [num_tokens, size]; a delta of None adds nothing. In half precision
        the sum, and the normed row before it meets the weight, are rounded, as in transformers.
        """
        ...

    def rotate_and_write_kv(
        self,
        qkv: Tensor,
        transform: HeadTransform,
        positions: Tensor,
        pool: Tensor,
        layer: int,
        kv_slots: Tensor,
        page_size: int,
        num_kv_heads: int,
    ) -> None:
        """Norm and rotate the heads of q and k in place; store k and v at token slots of the pool.

        qkv is [num_tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous; positions and
        kv_slots (`page_id * page_size + position within the page`) are int64 [num_tokens]. A token
        of a negative slot (padding of a captured graph) is rotated but not stored.
        """
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of [num_tokens, 2 * size], gate before up: [num_tokens, size]."""
        ...

    def shrink(
        self,
        x: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
    ) -> Tensor:
        """sum_i v[i, p, s, j] = A_s[j] . x[token(p)] for j < rank, in float32.

        x is [num_tokens, in_features] in the pool's dtype. Returns float32
        [num_parts, num_pairs, len(projections), max_rank], for the same backend's `expand` of the
        same pairs and projections, or to be summed over the parts: into how many a sum is divided
        is the backend's affair. Entries at and above the true rank are undefined.
        """
        ...

    def expand(
        self,
        v: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
        y: Tensor,
    ) -> None:
        """y[token(p), columns of s] += weight(p) * sum_ij v[i, p, s, j] * B_s[:, j], in place.

        y is [num_tokens, total_out_features] in the pool's dtype; the sum is taken in float32.
        Rows of y without a pair are not written.
        """
        ...

    def shrink_routed(
        self,
        x: Tensor,
        pool: Tensor,
        tables: LoraTables,
        routed: RoutedTokens,
        layer: int,
        projections: tuple[Projection, ...],
    ) -> tuple[Tensor, LoraPairs]:
        """Choose adapters for each token and projection, and `shrink` with them.

        With l the scores of a token's gates in one projection, chosen and weighted by the set's
        rule: the weights w are softmax(l / temperature) over the chosen gates or over all, or 1.
        A chosen expert becomes a pair of weight w. Where the rule is by rank, the only expert
        becomes a pair of weight 1, and its v[j] is multiplied by w[j], 0 for ranks that are not
        chosen. Products, softmax and sums are in float32.

        Args:
            x: [num_tokens, in_features] in the pool's dtype.
            routed: the tokens, their routers and experts; `usage` grows.

        Returns:
            v, as `shrink` returns it, and the pairs, both for the same backend's `expand` alone:
            in which order they stand, and whether there are some of weight 0, is its affair.
        """
        ...

    def paged_attention(
        self,
        q: Tensor,
        pool: Tensor,
        layer: int,
        batch: AttentionBatch,
        num_kv_heads: int,
        scale: float,
        sliding_window: int | None,
    ) -> Tensor:
        """Causal attention of the batch's tokens over their sequences' pages, GQA.

        q is [num_tokens, num_heads, head_dim]. A token sees itself and the tokens before it; with
        a sliding window of w, the last w of them (itself included), as in transformers. Softmax
        and accumulation in float32. Returns [num_tokens, num_heads, head_dim] in q's dtype. The
        new tokens' KV is already in the pool.
        """
        ...


def load_kernels(device: torch.device) -> Kernels:
    """The kernels for a device: Triton on a GPU, Numba on a CPU."""
    if device.type == "cuda":
        from motet.kernels.triton_backend import TritonKernels

        return TritonKernels()
    from motet.kernels.cpu_backend import CpuKernels

    return CpuKernels()
