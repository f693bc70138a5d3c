"""The rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout.

Owns: the table of cosines and sines.
Does not know: which layers rotate, nor how (the kernels do). The scaled frequency types
are transformers' own functions.
"""

import torch
from torch import Tensor

from motet.models.config import DecoderConfig


def rotary_table(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of every position that the model was made for.

    Computed in float32 on the CPU, and rounded once to the model's dtype, so that every device
    gets the numbers that transformers computes.

    Returns:
        [max_position_embeddings, 2, head_dim // 2]; the two halves of a head rotate together.
    """
    inverse_frequencies, factor = _inverse_frequencies(config)
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = positions[:, None] * inverse_frequencies
    table = torch.stack((angles.cos() * factor, angles.sin() * factor), dim=1)
    return table.to(device=device, dtype=dtype)


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
