"""The Triton kernels, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_triton.py` and `attention_triton.py`.
"""

from motet.kernels import attention_triton, lora_triton


class TritonKernels:
    """Triton kernels. Implements `types.Kernels`."""

    shrink = staticmethod(lora_triton.shrink)
    expand = staticmethod(lora_triton.expand)
    write_kv = staticmethod(attention_triton.write_kv)
    paged_attention = staticmethod(attention_triton.paged_attention)
