"""Matrices of the base model on a CPU, packed as the step reads them.

Owns: the packed layout, its storage types, and the checks of what the compiled loops take.
Does not know: which matrix it is, nor where its values come from.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from motet.kernels import linear_cpu_loops as loops
from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.tiles_cpu import PANEL_WIDTH, STEPS

WEIGHT_KINDS = {torch.float32: np.float32(0), torch.bfloat16: np.uint16(0), torch.int8: np.int8(0)}
"""What the loops are given to know the type of a weight."""

_INT8_MAX = 127


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A weight [out_features, in_features], `PANEL_WIDTH` outputs side by side.

    Attributes:
        panels: [num_panels, in_features, PANEL_WIDTH], float32, bfloat16 or int8; outputs past the
            last one are zero.
        scales: float32 [num_panels * PANEL_WIDTH], what an output's int8 weights are multiplied
            with; None for the other types.
        out_features: outputs.
    """

    panels: Tensor
    scales: Tensor | None
    out_features: int

    @classmethod
    def pack(cls, weight: Tensor, storage: torch.dtype) -> Self:
        """Pack a float32 weight.

        An int8 weight is symmetric, with a scale for each output: the largest of an output's
        weights becomes 127, the others are rounded to the nearest step.

        Args:
            weight: float32 [out_features, in_features], in_features a multiple of `STEPS`.
            storage: float32, bfloat16 or int8.
        """
        out_features, in_features = weight.shape
        assert weight.dtype == torch.float32, f"the weight is {weight.dtype}, expected float32"
        assert cls.can_pack(in_features), f"in_features is {in_features}; {STEPS} must divide it"
        assert storage in WEIGHT_KINDS, f"no loop takes {storage}, only {list(WEIGHT_KINDS)}"
        num_panels = -(-out_features // PANEL_WIDTH)
        scales = None
        if storage == torch.int8:
            scales = torch.zeros(num_panels * PANEL_WIDTH)
            smallest = torch.finfo(torch.float32).tiny  # of an output of zeros
            steps = (weight.abs().amax(dim=1) / _INT8_MAX).clamp_(min=smallest)
            scales[:out_features] = steps
            weight = (weight / steps[:, None]).round_()
        panels = zeros_on_huge_pages((num_panels, in_features, PANEL_WIDTH), storage)
        num_whole = out_features // PANEL_WIDTH
        whole, rest = weight[: num_whole * PANEL_WIDTH], weight[num_whole * PANEL_WIDTH :]
        panels[:num_whole] = whole.view(num_whole, PANEL_WIDTH, in_features).transpose(1, 2)
        if len(rest):
            panels[num_whole, :, : len(rest)] = rest.T
        return cls(panels, scales, out_features)

    @staticmethod
    def can_pack(in_features: int) -> bool:
        return in_features > 0 and in_features % STEPS == 0

    @property
    def num_bytes(self) -> int:
        """What a product reads of it."""
        scales = () if self.scales is None else (self.scales,)
        return sum(each.numel() * each.element_size() for each in (self.panels, *scales))

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """y[m, n] = sum_k x[m, k] * W[n, k] + bias[n], summed in float32.

        Args:
            x: float32 [num_rows, in_features], columns adjacent.
            bias: float32 [out_features], or None.

        Returns:
            float32 [num_rows, out_features], contiguous.
        """
        in_features = self.panels.shape[1]
        assert x.dtype == torch.float32, f"x is {x.dtype}, expected float32"
        assert x.shape[1:] == (in_features,), f"x is {tuple(x.shape)}, expected {in_features} wide"
        assert x.stride(1) == 1, "the columns of x must be adjacent"
        y = torch.empty((x.shape[0], self.out_features))
        loops.multiply(
            WEIGHT_KINDS[self.panels.dtype],
            (x.data_ptr(), x.stride(0), x.shape[0]),
            (
                self.panels.data_ptr(),
                0 if self.scales is None else self.scales.data_ptr(),
                self.out_features,
                in_features,
                self.panels.element_size(),
            ),
            (y.data_ptr(), self.out_features, x.shape[0]),
            torch.get_num_threads(),
        )
        return y if bias is None else y.add_(bias)

    def rows(self, row_ids: Tensor) -> Tensor:
        """W[row_ids], float32 [len(row_ids), in_features]; row_ids is int64."""
        if len(row_ids):
            least, most = row_ids.aminmax()
            assert least >= 0, f"row {least} was asked for"
            assert most < self.out_features, f"row {most} was asked for, of {self.out_features}"
        rows = self.panels[row_ids // PANEL_WIDTH, :, row_ids % PANEL_WIDTH].float()
        return rows if self.scales is None else rows * self.scales[row_ids, None]
