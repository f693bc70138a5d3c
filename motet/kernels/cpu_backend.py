"""The CPU kernels, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_cpu.py`, `routing_cpu.py`, `fused_cpu.py`
and `attention_cpu.py`.
"""

from motet.kernels import attention_cpu, fused_cpu, lora_cpu, routing_cpu


class CpuKernels:
    """Numba and torch kernels over the pool in place. Implements `types.Kernels`."""

    runs_compiled_layers = True
    shrink = staticmethod(lora_cpu.shrink)
    expand = staticmethod(lora_cpu.expand)
    shrink_routed = staticmethod(routing_cpu.shrink_routed)
    add_rms_norm = staticmethod(fused_cpu.add_rms_norm)
    rotate_and_write_kv = staticmethod(fused_cpu.rotate_and_write_kv)
    silu_mul = staticmethod(fused_cpu.silu_mul)
    paged_attention = staticmethod(attention_cpu.paged_attention)
