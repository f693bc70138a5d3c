"""The CPU kernels, as one object that a step can be given.

Owns: nothing but the choice. The kernels are in `lora_cpu.py` and `attention_cpu.py`.
"""

from motet.kernels import attention_cpu, lora_cpu


class CpuKernels:
    """Numba and torch kernels over the pool in place. Implements `types.Kernels`."""

    shrink = staticmethod(lora_cpu.shrink)
    expand = staticmethod(lora_cpu.expand)
    write_kv = staticmethod(attention_cpu.write_kv)
    paged_attention = staticmethod(attention_cpu.paged_attention)
