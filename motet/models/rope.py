"""The rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout.

Owns: the table of cosines and sines, and the rotation.
Does not know: which layers rotate. The scaled frequency types are transformers' own functions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from motet.models.config import DecoderConfig


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotation of each token of a batch: `cos` and `sin`, each [num_tokens, 1, head_dim].

    The first half of `sin` is negated, so that `rotate` needs no negation of its own.
    """

    cos: Tensor
    sin: Tensor


class RopeTable:
    """Cosines and sines of every position that the model was made for.

    Computed in float32 on the CPU, and rounded once to the model's dtype, so that every device
    gets the numbers that transformers computes.
    """

    def __init__(self, config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        inverse_frequencies, factor = _inverse_frequencies(config)
        positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        angles = positions[:, None] * inverse_frequencies
        cos, sin = angles.cos() * factor, angles.sin() * factor
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
        self._table = table.unsqueeze(2).to(device=device, dtype=dtype)

    def at(self, positions: Tensor) -> Rotation:
        """The rotation for int64 [num_tokens] positions, each below max_position_embeddings."""
        cos, sin = self._table.index_select(1, positions)
        return Rotation(cos, sin)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate [num_tokens, num_heads, head_dim] by each token's position; contiguous.

    Dimension i pairs with dimension i + head_dim / 2:
    out[i] = x[i] cos - x[i + half] sin and out[i + half] = x[i + half] cos + x[i] sin.
    """
    return torch.addcmul(x * rotation.cos, x.roll(x.shape[-1] // 2, -1), rotation.sin)


def _inverse_frequencies(config: DecoderConfig) -> tuple[Tensor, float]:
    """float32 [head_dim / 2], and the factor on cosines and sines (other than 1 for yarn)."""
    rope, shape = config.rope, config.shape
    if rope.rope_type == "default":
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        return 1.0 / (rope.theta**exponents), 1.0
    # Imported here because it takes long, and most models rotate without scaling.
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hf_config = LlamaConfig(
        hidden_size=shape.q_size,
        num_attention_heads=shape.num_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={
            "rope_type": rope.rope_type,
            "rope_theta": rope.theta,
            **rope.scaling,
        },
    )
    inverse_frequencies, factor = ROPE_INIT_FUNCTIONS[rope.rope_type](hf_config, device="cpu")
    return inverse_frequencies.to(torch.float32), float(factor)
