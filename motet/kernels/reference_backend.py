"""The torch references, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_reference.py`, `fused_reference.py` and
`attention_reference.py`, that of routed tokens is in `routing_reference.py`.
"""

from motet.kernels import (
    attention_reference,
    fused_reference,
    lora_reference,
    routing_reference,
)


class ReferenceKernels:
    """Plain torch, one loop at a time: slow, and obviously right. Implements `types.Kernels`."""

    runs_compiled_layers = False
    shrink = staticmethod(lora_reference.shrink)
    expand = staticmethod(lora_reference.expand)
    shrink_routed = staticmethod(routing_reference.shrink_routed)
    add_rms_norm = staticmethod(fused_reference.add_rms_norm)
    rotate_and_write_kv = staticmethod(fused_reference.rotate_and_write_kv)
    silu_mul = staticmethod(fused_reference.silu_mul)
    paged_attention = staticmethod(attention_reference.paged_attention)
