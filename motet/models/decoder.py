"""The decoder: token ids in, logits out.

Owns: the forward pass of the Llama family, in its order: norm, attention, norm, MLP, and the head.
Does not know: which requests the tokens belong to, how KV and rank rows are stored (the kernels
do), nor files. Run it under `torch.inference_mode()`.

A batch is flat: the tokens of all its sequences one after another, prefill chunks and decodes
alike. What tells them apart is in the `ForwardContext`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from motet.core.shape import GATE_UP, QKV, Module
from motet.models.config import DecoderConfig
from motet.models.context import ForwardContext
from motet.models.layers import Linear, LoraLinear, RmsNorm
from motet.models.rope import RopeTable, Rotation, rotate
from motet.models.weights import DecoderWeights, LayerWeights


class Decoder:
    """A decoder-only transformer over a page pool.

    Args:
        config: its shape and switches.
        weights: its tensors, all of one dtype and device.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config = config
        self._embedding = weights.embedding
        self._rope = RopeTable(config, weights.embedding.device, weights.embedding.dtype)
        self._layers = [_Layer(config, i, layer) for i, layer in enumerate(weights.layers)]
        self._final_norm = RmsNorm(weights.final_norm, config.rms_norm_eps)
        head = weights.embedding if weights.lm_head is None else weights.lm_head
        self._lm_head = Linear(head, None)

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
        """Run all tokens through all layers, and the asked-for rows through the head.

        Args:
            token_ids: int64 [num_tokens].
            logits_rows: int64 [num_rows]. Rows of the batch whose next token is wanted.
            ctx: the batch. Its pages receive the new tokens' KV.

        Returns:
            float32 [num_rows, vocab_size].
        """
        hidden = F.embedding(token_ids, self._embedding)
        rotation = self._rope.at(ctx.positions)
        for layer in self._layers:
            layer.forward(hidden, rotation, ctx)
        wanted = self._final_norm(hidden.index_select(0, logits_rows))
        return self._lm_head(wanted).float()


class _Layer:
    def __init__(self, config: DecoderConfig, layer: int, weights: LayerWeights) -> None:
        self._attention_norm = RmsNorm(weights.attention_norm, config.rms_norm_eps)
        self._attention = _Attention(config, layer, weights)
        self._mlp_norm = RmsNorm(weights.mlp_norm, config.rms_norm_eps)
        self._mlp = _Mlp(config, layer, weights)

    def forward(self, hidden: Tensor, rotation: Rotation, ctx: ForwardContext) -> None:
        """Add this layer's two terms to the residual stream [num_tokens, hidden_size], in place."""
        hidden.add_(self._attention.forward(self._attention_norm(hidden), rotation, ctx))
        hidden.add_(self._mlp.forward(self._mlp_norm(hidden), ctx))


class _Attention:
    def __init__(self, config: DecoderConfig, layer: int, weights: LayerWeights) -> None:
        shape = config.shape
        self._layer = layer
        self._num_heads = shape.num_heads
        self._num_kv_heads = shape.num_kv_heads
        self._head_dim = shape.head_dim
        self._scale = shape.head_dim**-0.5
        self._sliding_window = config.sliding_windows[layer]
        self._rotates = config.rope_layers[layer]
        self._qk_norm = _make_qk_norm(config, weights)
        self._qkv = LoraLinear(Linear(weights.qkv, weights.qkv_bias), QKV, shape, layer)
        self._o = LoraLinear(Linear(weights.o, weights.o_bias), (Module.O,), shape, layer)

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        num_tokens = x.shape[0]
        qkv = self._qkv(x, ctx).view(num_tokens, -1, self._head_dim)
        # q and k lie side by side, so one norm and one rotation serve both.
        qk, v = torch.split(qkv, [self._num_heads + self._num_kv_heads, self._num_kv_heads], dim=1)
        if self._qk_norm is not None:
            qk = self._qk_norm(qk)
        if self._rotates:
            qk = rotate(qk, rotation)
        q, k = torch.split(qk, [self._num_heads, self._num_kv_heads], dim=1)
        ctx.kernels.write_kv(k, v, ctx.pool, self._layer, ctx.kv_slots, ctx.attention.page_size)
        heads = ctx.kernels.paged_attention(
            q,
            ctx.pool,
            self._layer,
            ctx.attention,
            self._num_kv_heads,
            self._scale,
            self._sliding_window,
        )
        return self._o(heads.view(num_tokens, -1), ctx)


def _make_qk_norm(config: DecoderConfig, weights: LayerWeights) -> RmsNorm | None:
    """One norm for q and k together: its weight has a row for each head of either."""
    if weights.q_norm is None or weights.k_norm is None:
        return None
    q_rows = weights.q_norm.expand(config.shape.num_heads, -1)
    k_rows = weights.k_norm.expand(config.shape.num_kv_heads, -1)
    return RmsNorm(torch.cat((q_rows, k_rows)), config.rms_norm_eps)


class _Mlp:
    def __init__(self, config: DecoderConfig, layer: int, weights: LayerWeights) -> None:
        shape = config.shape
        gate_up = Linear(weights.gate_up, weights.gate_up_bias)
        down = Linear(weights.down, weights.down_bias)
        self._gate_up = LoraLinear(gate_up, GATE_UP, shape, layer)
        self._down = LoraLinear(down, (Module.DOWN,), shape, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        gate, up = self._gate_up(x, ctx).chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up), ctx)
