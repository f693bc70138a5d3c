"""The Triton kernels, as one object that a step can be given.

Owns: which implementation each kernel of a step has, and the stream that a shrink runs on.
Does not know: the kernels. They are in `lora_triton.py`, `routing_triton.py`, `fused_triton.py` and
`attention_triton.py`.
"""

from torch import Tensor

from motet.kernels import attention_triton, fused_triton, lora_triton, routing_triton
from motet.kernels.side_stream import SideStream
from motet.kernels.types import LoraPairs, LoraTables, Projection


class TritonKernels:
    """Triton kernels. Implements `types.Kernels`.

    Args:
        shrink_beside_product: whether a shrink runs beside what is launched between it and its
            expand, that is the base product. In a captured decode graph it should hide the few
            microseconds of a shrink behind a product that leaves part of the chip idle; launched
            one by one it costs the host two more waits. Off until it has been measured.
    """

    runs_compiled_layers = False

    def __init__(self, *, shrink_beside_product: bool = False) -> None:
        self._side = SideStream() if shrink_beside_product else None

    add_rms_norm = staticmethod(fused_triton.add_rms_norm)
    rotate_and_write_kv = staticmethod(fused_triton.rotate_and_write_kv)
    silu_mul = staticmethod(fused_triton.silu_mul)
    paged_attention = staticmethod(attention_triton.paged_attention)
    shrink_routed = staticmethod(routing_triton.shrink_routed)

    def shrink(
        self,
        x: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
    ) -> Tensor:
        """See `lora_triton.shrink`. Each has to be followed by its expand, x kept until then."""
        if self._side is None:
            return lora_triton.shrink(x, pool, tables, pairs, layer, projections)
        return self._side.fork(
            lambda: lora_triton.shrink(x, pool, tables, pairs, layer, projections)
        )

    def expand(
        self,
        v: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
        y: Tensor,
    ) -> None:
        """See `lora_triton.expand`; of routed pairs too."""
        if self._side is not None:
            self._side.join()
        routing_triton.expand(v, pool, tables, pairs, layer, projections, y)
