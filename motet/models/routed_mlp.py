"""MLP blocks whose adapters a router chooses once for the whole block, as in MixLoRA.

Owns: what the chosen experts add to a block, and the rows and pairs that they need on the way.
Does not know: how scores become weights (`kernels/gating.py`), nor which tokens are routed so.

A token t with the experts e of weight w_e has the sum of w_e FFN_e(x_t), where expert e changes
all three projections of FFN_e (MixLoRA, arXiv 2404.15159). The projections are linear, so only
what lies between them is done for each choice anew:

    h_e    = act(W_g x + B_g A_g x) * (W_u x + B_u A_u x)    with the A and B of expert e
    output = W_d (sum of w_e h_e) + sum of w_e B_d A_d h_e

W_g x and W_u x are computed once for a token, and W_d once for the weighted sum. Adapters that a
token uses besides, in all layers, count as part of the W.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from motet.core.shape import GATE_UP, ModelShape, Module
from motet.kernels.gating import gate_weights
from motet.kernels.types import LoraPairs, LoraTables, Round, RoutedTokens
from motet.models.context import ForwardContext
from motet.models.layers import LoraLinear, side_by_side


class _Choices(NamedTuple):
    """The experts of each token. Row k of a column is its k-th choice, in no certain order.

    Attributes:
        slots: int32 [num_choices, num_tokens].
        weights: float32 [num_choices, num_tokens]; 0 where a token has fewer choices.
        has_router: bool [num_tokens]. False where the token's set has no gates in this layer.
    """

    slots: Tensor
    weights: Tensor
    has_router: Tensor


class RoutedMlp:
    """An MLP block for a batch of which some tokens are `LoraContext.blocks`.

    Args:
        down: the block's last projection.
        shape: gives the widths of the projections.
        layer: the decoder layer, which the tables are indexed by.
    """

    def __init__(self, down: LoraLinear, shape: ModelShape, layer: int) -> None:
        self._down = down
        self._gate = side_by_side((Module.GATE,), shape)
        self._gate_up_projections = side_by_side(GATE_UP, shape)
        self._down_projections = side_by_side((Module.DOWN,), shape)
        self._layer = layer

    def forward(
        self,
        x: Tensor,
        gate_up: Tensor,
        ctx: ForwardContext,
        tables: LoraTables,
        blocks: RoutedTokens,
    ) -> Tensor:
        """The block's output, [num_tokens, hidden_size].

        Args:
            x: the block's input, [num_tokens, hidden_size].
            gate_up: [num_tokens, 2 * intermediate_size]. What gate and up make of it without the
                chosen experts.
            ctx: the batch.
            tables: where routers and experts lie.
            blocks: the routed tokens, each once; the rule is for experts, without bias.
        """
        kernels, pool, layer = ctx.kernels, ctx.pool, self._layer
        choices = self._choose(x, ctx, tables, blocks)
        by_token, by_row = _pairs(choices, blocks)
        tokens = blocks.gates.tokens.long()

        v = kernels.shrink(x, pool, tables, by_token, layer, self._gate_up_projections)
        rows = gate_up[tokens].repeat(len(choices.slots), 1)
        # All of an expert's change: how much of the expert there is, is weighed after the block.
        whole = replace(by_row, weights=torch.ones_like(by_row.weights))
        kernels.expand(v, pool, tables, whole, layer, self._gate_up_projections, rows)
        hidden_rows = kernels.silu_mul(rows)

        v = kernels.shrink(hidden_rows, pool, tables, by_row, layer, self._down_projections)
        hidden = kernels.silu_mul(gate_up)
        hidden[tokens] = _mix(hidden_rows, choices, hidden[tokens])
        y = self._down(hidden, ctx)
        kernels.expand(v, pool, tables, by_token, layer, self._down_projections, y)
        return y

    def _choose(
        self, x: Tensor, ctx: ForwardContext, tables: LoraTables, blocks: RoutedTokens
    ) -> _Choices:
        """Each token's experts in this layer; `usage` grows by their weights."""
        gates, sets = blocks.gates, blocks.sets.long()
        v = ctx.kernels.shrink(x, ctx.pool, tables, gates, self._layer, self._gate)
        products = v[:, :, 0, : blocks.usage.shape[1]].sum(0)
        num_gates = tables.ranks[gates.slots.long(), self._layer, Module.GATE]
        weights = gate_weights(products, num_gates, blocks)
        blocks.usage[:, : weights.shape[1]] += weights
        chosen = weights.topk(min(blocks.max_choices, weights.shape[1]), dim=1)
        # A choice that a token does not have is its first expert, which there always is.
        experts = chosen.indices.where(chosen.values > 0, 0)
        slots = blocks.expert_slots[sets].gather(1, experts)
        return _Choices(slots.t(), chosen.values.t(), num_gates > 0)


def _mix(hidden_rows: Tensor, choices: _Choices, plain: Tensor) -> Tensor:
    """The weighted sum of what the experts made of each token, [num_tokens, intermediate_size].

    Args:
        hidden_rows: [num_choices * num_tokens, intermediate_size], row k * num_tokens + i is the
            k-th choice of token i.
        plain: [num_tokens, intermediate_size], for tokens without a router here.
    """
    num_choices, num_tokens = choices.weights.shape
    of_choice = hidden_rows.view(num_choices, num_tokens, -1)
    mixed = (choices.weights[:, :, None] * of_choice).sum(0).to(plain.dtype)
    return torch.where(choices.has_router[:, None], mixed, plain)


def _pairs(choices: _Choices, blocks: RoutedTokens) -> tuple[LoraPairs, LoraPairs]:
    """A pair for each choice of each token, of the batch's rows and of the rows of choices.

    A choice is a round, sorted by slot within. How many segments a round has is known on the
    device alone, so it is given as many as it can have, of which the last may be empty.
    """
    num_choices, num_tokens = choices.slots.shape
    device = choices.slots.device
    slots, order = choices.slots.sort(dim=1, stable=True)
    first_pairs = num_tokens * torch.arange(num_choices, device=device)[:, None]
    num_segments = min(num_tokens, blocks.expert_slots.numel())
    by_row = LoraPairs(
        tokens=(order + first_pairs).flatten().int(),
        slots=slots.flatten(),
        weights=choices.weights.gather(1, order).flatten(),
        segment_starts=_segment_starts(slots, first_pairs, num_segments),
        max_rank=blocks.max_rank,
        rounds=tuple(Round(k * num_segments, k * num_tokens) for k in range(num_choices)),
    )
    return replace(by_row, tokens=blocks.gates.tokens[order].flatten()), by_row


def _segment_starts(slots: Tensor, first_pairs: Tensor, num_segments: int) -> Tensor:
    """Where the runs of equal slots begin, and the end of all: int32 [rounds * num_segments + 1].

    Args:
        slots: [num_rounds, num_pairs of a round], each row ascending.
        first_pairs: [num_rounds, 1].
        num_segments: at least the number of different slots in a row.
    """
    begins = torch.zeros_like(slots, dtype=torch.int64)
    begins[:, 1:] = slots[:, 1:] != slots[:, :-1]
    segment_of_pair = begins.cumsum(1)
    wanted = torch.arange(num_segments, device=slots.device).repeat(slots.shape[0], 1)
    starts = torch.searchsorted(segment_of_pair, wanted) + first_pairs
    return torch.nn.functional.pad(starts.flatten(), (0, 1), value=slots.numel()).int()
