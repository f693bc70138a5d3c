"""The Triton kernels, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_triton.py`, `fused_triton.py` and
`attention_triton.py`.
"""

from motet.kernels import attention_triton, fused_triton, lora_triton


class TritonKernels:
    """Triton kernels. Implements `types.Kernels`."""

    runs_compiled_layers = False
    shrink = staticmethod(lora_triton.shrink)
    expand = staticmethod(lora_triton.expand)
    add_rms_norm = staticmethod(fused_triton.add_rms_norm)
    rotate_and_write_kv = staticmethod(fused_triton.rotate_and_write_kv)
    silu_mul = staticmethod(fused_triton.silu_mul)
    paged_attention = staticmethod(attention_triton.paged_attention)
