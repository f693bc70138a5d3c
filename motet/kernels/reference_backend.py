"""The torch references, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_reference.py` and `attention_reference.py`.
"""

from motet.kernels import attention_reference, lora_reference


class ReferenceKernels:
    """Plain torch, one loop at a time: slow, and obviously right. Implements `types.Kernels`."""

    shrink = staticmethod(lora_reference.shrink)
    expand = staticmethod(lora_reference.expand)
    write_kv = staticmethod(attention_reference.write_kv)
    paged_attention = staticmethod(attention_reference.paged_attention)
