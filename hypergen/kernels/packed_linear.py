"""Multiply by a weight in the memory layout that is fastest for the number of rows.

One row is a matrix-vector product and wants a weight that is read in one run; several rows gain from oneDNN's own
layout, which is made when it is first needed.

Shape letters: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)  # of a model that can be packed, all weights the same
ROWS_TO_PREPACK = {"AVX512": 2}  # from here on oneDNN's layout is faster than a transposed one (measured)
OTHER_ROWS_TO_PREPACK = 16  # the same on processors of other kinds; also the rows that oneDNN lays weights out for


class PackedLinear:
    """Compute x @ weight + bias, (M, I) -> (M, O), with the weight in the layout that suits M."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """Lay out a weight (I, O): in memory its longer side comes last, the fastest for one row (measured)."""
        is_tall = weight.shape[0] > weight.shape[1]
        self.weight = weight.detach().T.contiguous().T if is_tall else weight.detach().contiguous()
        self.bias = None if bias is None else bias.detach()
        can_prepack = weight.device.type == "cpu" and weight.dtype in DTYPES and _has_prepacking()
        self.rows_to_prepack = _rows_to_prepack() if can_prepack else math.inf
        self.prepacked: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply rows (M, I): -> (M, O)."""
        if rows.shape[0] >= self.rows_to_prepack:
            if self.prepacked is None:
                self.prepacked = _prepack(self.weight)
            return _prepacked_product(rows, self.prepacked, self.bias)
        return rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)


def _prepack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous(), OTHER_ROWS_TO_PREPACK)


def _prepacked_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


@cache
def _rows_to_prepack() -> int:
    return ROWS_TO_PREPACK.get(torch.backends.cpu.get_cpu_capability(), OTHER_ROWS_TO_PREPACK)


@cache
def _has_prepacking() -> bool:
    """Try oneDNN's operations: they are torch's own but undocumented, so used only where they exist and multiply."""
    try:
        one = torch.ones(4, 4)
        return torch.equal(_prepacked_product(one, _prepack(one), None), one @ one)
    except (AttributeError, RuntimeError):
        return False
