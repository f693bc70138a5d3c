"""The decoder: token ids in, logits out.

Owns: the forward pass of the Llama family, in its order: norm, attention, norm, MLP, and the head.
Does not know: which requests the tokens belong to, how KV and rank rows are stored (the kernels
do), nor files. Run it under `torch.inference_mode()`.

A batch is flat: the tokens of all its sequences one after another, prefill chunks and decodes
alike. What tells them apart is in the `ForwardContext`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from motet.core.shape import GATE_UP, QKV, Module
from motet.kernels.types import HeadTransform, Kernels
from motet.models.config import DecoderConfig
from motet.models.context import ForwardContext
from motet.models.layers import Linear, LoraLinear, head_norm
from motet.models.rope import rotary_table
from motet.models.routed_mlp import RoutedMlp
from motet.models.weights import DecoderWeights, LayerWeights

if TYPE_CHECKING:
    from motet.models.compiled_layers import CompiledLayers


class HiddenStates(NamedTuple):
    """What the layers make of a batch: the residual stream, its last term yet to be added.

    Both are [num_tokens, hidden_size].
    """

    residual: Tensor
    delta: Tensor


class Decoder:
    """A decoder-only transformer over a page pool.

    Args:
        config: its shape and switches.
        weights: its tensors, all of one dtype and device.

    Attributes:
        config, weights: the same.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config = config
        self.weights = weights
        self._embedding = weights.embedding
        self._final_norm = weights.final_norm
        rotary = rotary_table(config, self.device, self.dtype)
        self._compiled = _compile(config, weights, rotary)
        self._layers = [_Layer(config, i, layer, rotary) for i, layer in enumerate(weights.layers)]
        self._eps = config.rms_norm_eps
        head = weights.embedding if weights.lm_head is None else weights.lm_head
        self._lm_head = Linear(head, None)

    @property
    def device(self) -> torch.device:
        return self._final_norm.device

    @property
    def dtype(self) -> torch.dtype:
        return self._final_norm.dtype

    def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
        """Run all tokens through all layers, and the asked-for rows through the head.

        Args:
            token_ids: int64 [num_tokens].
            logits_rows: int64 [num_rows]. Rows of the batch whose next token is wanted.
            ctx: the batch. Its pages receive the new tokens' KV.

        Returns:
            float32 [num_rows, vocab_size].
        """
        return self.logits(self.hidden_states(token_ids, ctx), logits_rows, ctx.kernels)

    def hidden_states(self, token_ids: Tensor, ctx: ForwardContext) -> HiddenStates:
        """Run all tokens through all layers: `forward` without the head.

        The next call may overwrite them.
        """
        residual = self._embedding.rows(token_ids)
        has_blocks = ctx.lora is not None and ctx.lora.blocks is not None
        if self._compiled is not None and ctx.kernels.runs_compiled_layers and not has_blocks:
            return HiddenStates(residual, self._compiled.run(residual, ctx))
        return HiddenStates(residual, self._run_layers(residual, ctx))

    def logits(self, hidden: HiddenStates, logits_rows: Tensor, kernels: Kernels) -> Tensor:
        """Run some rows through the head, which leaves `hidden` as it is.

        Args:
            hidden: of a batch.
            logits_rows: int64 [num_rows]. Rows of the batch.
            kernels: those that the layers ran with.

        Returns:
            float32 [num_rows, vocab_size].
        """
        residual, delta = (each.index_select(0, logits_rows) for each in hidden)
        wanted = kernels.add_rms_norm(residual, delta, self._final_norm, self._eps)
        return self._lm_head(wanted).float()

    def _run_layers(self, residual: Tensor, ctx: ForwardContext) -> Tensor:
        """Change the residual stream in place; the last layer's last term is yet to be added."""
        delta = None
        for layer in self._layers:
            delta = layer.forward(residual, delta, ctx)
        assert delta is not None, "a decoder has at least one layer"
        return delta


def _compile(
    config: DecoderConfig, weights: DecoderWeights, rotary: Tensor
) -> "CompiledLayers | None":
    """The layers as one call, where there is such a thing for these weights."""
    if rotary.device.type != "cpu" or rotary.dtype != torch.float32:
        return None
    from motet.models.compiled_layers import CompiledLayers  # a GPU does without Numba

    if not CompiledLayers.can_compile(config, weights):
        return None
    return CompiledLayers(config, weights, rotary)


class _Layer:
    def __init__(
        self, config: DecoderConfig, layer: int, weights: LayerWeights, rotary: Tensor
    ) -> None:
        self._eps = config.rms_norm_eps
        self._attention_norm = weights.attention_norm
        self._attention = _Attention(config, layer, weights, rotary)
        self._mlp_norm = weights.mlp_norm
        self._mlp = _Mlp(config, layer, weights)

    def forward(self, residual: Tensor, delta: Tensor | None, ctx: ForwardContext) -> Tensor:
        """One layer over the residual stream [num_tokens, hidden_size], which changes in place.

        Args:
            residual: the stream without the last term of the layer before.
            delta: that term, None in the first layer. A norm is cheaper if it adds it by the way.
            ctx: the batch.

        Returns:
            The last term of this layer.
        """
        kernels, eps = ctx.kernels, self._eps
        x = kernels.add_rms_norm(residual, delta, self._attention_norm, eps)
        delta = self._attention.forward(x, ctx)
        x = kernels.add_rms_norm(residual, delta, self._mlp_norm, eps)
        return self._mlp.forward(x, ctx)


class _Attention:
    def __init__(
        self, config: DecoderConfig, layer: int, weights: LayerWeights, rotary: Tensor
    ) -> None:
        shape = config.shape
        self._layer = layer
        self._num_heads = shape.num_heads
        self._num_kv_heads = shape.num_kv_heads
        self._head_dim = shape.head_dim
        self._scale = shape.head_dim**-0.5
        self._sliding_window = config.sliding_windows[layer]
        self._transform = HeadTransform(
            norm=head_norm(config, weights),
            eps=config.rms_norm_eps,
            rotary=rotary if config.rope_layers[layer] else None,
        )
        self._qkv = LoraLinear(Linear(weights.qkv, weights.qkv_bias), QKV, shape, layer)
        self._o = LoraLinear(Linear(weights.o, weights.o_bias), (Module.O,), shape, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        num_tokens = x.shape[0]
        qkv = self._qkv(x, ctx).view(num_tokens, -1, self._head_dim)
        ctx.kernels.rotate_and_write_kv(
            qkv,
            self._transform,
            ctx.positions,
            ctx.pool,
            self._layer,
            ctx.kv_slots,
            ctx.attention.page_size,
            self._num_kv_heads,
        )
        heads = ctx.kernels.paged_attention(
            qkv[:, : self._num_heads],
            ctx.pool,
            self._layer,
            ctx.attention,
            self._num_kv_heads,
            self._scale,
            self._sliding_window,
        )
        return self._o(heads.view(num_tokens, -1), ctx)


class _Mlp:
    def __init__(self, config: DecoderConfig, layer: int, weights: LayerWeights) -> None:
        shape = config.shape
        gate_up = Linear(weights.gate_up, weights.gate_up_bias)
        down = Linear(weights.down, weights.down_bias)
        self._gate_up = LoraLinear(gate_up, GATE_UP, shape, layer)
        self._down = LoraLinear(down, (Module.DOWN,), shape, layer)
        self._routed = RoutedMlp(self._down, shape, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        gate_up = self._gate_up(x, ctx)
        if ctx.lora is not None and ctx.lora.blocks is not None:
            return self._routed.forward(x, gate_up, ctx, ctx.lora.tables, ctx.lora.blocks)
        return self._down(ctx.kernels.silu_mul(gate_up), ctx)
