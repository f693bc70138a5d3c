"""The decoder's tensors: their names in a checkpoint, and their merged layout here.

Owns: `DecoderWeights`, the mapping from Hugging Face names, and the strictness about them.
Does not know: files (`checkpoint.py`), nor what the tensors compute (`decoder.py`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from motet.core.errors import ModelError
from motet.core.shape import GATE_UP, QKV, Module
from motet.models.checkpoint import Checkpoint, some_of
from motet.models.config import DecoderConfig
from motet.models.matrix import Matrix, matrix_maker

_PROJECTION_NAMES = {
    Module.Q: "self_attn.q_proj",
    Module.K: "self_attn.k_proj",
    Module.V: "self_attn.v_proj",
    Module.O: "self_attn.o_proj",
    Module.GATE: "mlp.gate_proj",
    Module.UP: "mlp.up_proj",
    Module.DOWN: "mlp.down_proj",
}
_LM_HEAD = "lm_head.weight"

# Old checkpoints carry these; they follow from the config.
_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq|.*\.self_attn\.(bias|masked_bias)")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are [out_features, in_features]; siblings lie one below another."""

    attention_norm: Tensor
    qkv: Matrix
    o: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix
    qkv_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    o_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All tensors, of one dtype and device.

    Attributes:
        embedding: [vocab_size, hidden_size].
        layers: in order.
        final_norm: [hidden_size].
        lm_head: [vocab_size, hidden_size], or None where the embedding is the head.
    """

    embedding: Matrix
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    lm_head: Matrix | None


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor of a checkpoint, all of one of ours or some of its rows."""

    name: str
    shape: tuple[int, ...]


_Make = Callable[[Sequence[_Part]], Tensor]
_MakeMatrix = Callable[[Tensor], Matrix]


def read_weights(
    config: DecoderConfig,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.dtype | None = None,
) -> DecoderWeights:
    """The weights of a checkpoint, cast and merged. Nothing of them stays in the mapped files.

    Args:
        config: the model's shape and switches.
        checkpoint: its tensors.
        device: where it will run.
        dtype: what it computes in.
        storage: what its matrices are stored in; None is `dtype`. See `matrix_maker`.

    Raises:
        ModelError: tensors are missing, unexpected, of another shape, or quantized.
    """
    _check_names(config, checkpoint.names)

    def merge(parts: Sequence[_Part]) -> Tensor:
        merged = _empty(parts, device, dtype)
        num_rows = [part.shape[0] for part in parts]
        for part, rows in zip(parts, torch.split(merged, num_rows), strict=True):
            rows.copy_(checkpoint.read(part.name, part.shape))
        return merged

    embedding = merge([_embedding_part(config)])
    lm_head = merge([_lm_head_part(config)]) if _LM_HEAD in checkpoint.names else None
    # A file may hold a head that the config ties. Where the two differ, transformers keeps both.
    if config.tie_word_embeddings and lm_head is not None and torch.equal(lm_head, embedding):
        lm_head = None
    to_matrix = matrix_maker(device, dtype, storage or dtype)
    return _assemble(config, merge, to_matrix, embedding, lm_head)


def random_weights(
    config: DecoderConfig,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    storage: torch.dtype | None = None,
) -> DecoderWeights:
    """Weights of the right shapes and a sane scale, for measuring without a checkpoint."""
    generator = torch.Generator(device).manual_seed(seed)

    def make(parts: Sequence[_Part]) -> Tensor:
        values = _empty(parts, device, dtype)
        if values.dim() == 1:
            return values.fill_(1.0)
        return values.normal_(std=values.shape[1] ** -0.5, generator=generator)

    lm_head = None if config.tie_word_embeddings else make([_lm_head_part(config)])
    to_matrix = matrix_maker(device, dtype, storage or dtype)
    return _assemble(config, make, to_matrix, make([_embedding_part(config)]), lm_head)


def _assemble(
    config: DecoderConfig,
    make: _Make,
    to_matrix: _MakeMatrix,
    embedding: Tensor,
    lm_head: Tensor | None,
) -> DecoderWeights:
    def layer(index: int) -> LayerWeights:
        tensors = {name: make(parts) for name, parts in _layer_parts(config, index).items()}
        fields: dict[str, Any] = {
            name: to_matrix(tensor) if tensor.dim() == 2 else tensor
            for name, tensor in tensors.items()
        }
        return LayerWeights(**fields)

    layers = tuple(layer(index) for index in range(config.shape.num_layers))
    return DecoderWeights(
        embedding=to_matrix(embedding),
        layers=layers,
        final_norm=make([_final_norm_part(config)]),
        lm_head=None if lm_head is None else to_matrix(lm_head),
    )


def _empty(parts: Sequence[_Part], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Room for the parts, one below another."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return torch.empty(shape, dtype=dtype, device=device)


def _check_names(config: DecoderConfig, found: set[str]) -> None:
    wanted = {_embedding_part(config).name, _final_norm_part(config).name}
    for i in range(config.shape.num_layers):
        wanted |= {part.name for parts in _layer_parts(config, i).values() for part in parts}
    if not config.tie_word_embeddings:
        wanted.add(_LM_HEAD)
    if missing := wanted - found:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} tensors of {config.architecture}: "
            f"{some_of(missing)}. Its weights and config.json are not of one model."
        )
    unexpected = {n for n in found - wanted - {_LM_HEAD} if _HARMLESS.fullmatch(n) is None}
    if unexpected:
        raise ModelError(
            f"The checkpoint has {len(unexpected)} tensors that {config.architecture} does not "
            f"have as config.json describes it: {some_of(unexpected)}. Leaving them out would "
            "change the model."
        )


def _embedding_part(config: DecoderConfig) -> _Part:
    shape = config.shape
    return _Part("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))


def _lm_head_part(config: DecoderConfig) -> _Part:
    return _Part(_LM_HEAD, (config.shape.vocab_size, config.shape.hidden_size))


def _final_norm_part(config: DecoderConfig) -> _Part:
    return _Part("model.norm.weight", (config.shape.hidden_size,))


def _layer_parts(config: DecoderConfig, layer: int) -> dict[str, list[_Part]]:
    """For each field of `LayerWeights` that this model has: the tensors that it is made of."""
    shape = config.shape
    prefix = f"model.layers.{layer}."

    def matrix(*modules: Module) -> list[_Part]:
        return [
            _Part(
                f"{prefix}{_PROJECTION_NAMES[m]}.weight",
                (shape.out_features(m), shape.in_features(m)),
            )
            for m in modules
        ]

    def bias(*modules: Module) -> list[_Part]:
        return [
            _Part(f"{prefix}{_PROJECTION_NAMES[m]}.bias", (shape.out_features(m),)) for m in modules
        ]

    def norm(name: str, size: int) -> list[_Part]:
        return [_Part(f"{prefix}{name}.weight", (size,))]

    parts = {
        "attention_norm": norm("input_layernorm", shape.hidden_size),
        "qkv": matrix(*QKV),
        "o": matrix(Module.O),
        "mlp_norm": norm("post_attention_layernorm", shape.hidden_size),
        "gate_up": matrix(*GATE_UP),
        "down": matrix(Module.DOWN),
    }
    if config.qkv_bias:
        parts["qkv_bias"] = bias(*QKV)
    if config.o_bias:
        parts["o_bias"] = bias(Module.O)
    if config.mlp_bias:
        parts |= {"gate_up_bias": bias(*GATE_UP), "down_bias": bias(Module.DOWN)}
    if config.qk_norm:
        parts["q_norm"] = norm("self_attn.q_norm", shape.head_dim)
        parts["k_norm"] = norm("self_attn.k_norm", shape.head_dim)
    return parts
