"""Last-layers training on cached boundary activations: the lower blocks run once for all epochs.

The sequences are fixed, so the input of the last K blocks is fixed too. It is computed once, kept in memory, and only
the last K blocks, final norm and untied head train on it (the idea behind arXiv 2605.22579, which finds the effect in
the last layers). A guard compares truncated with full forward on one batch; where they differ, nothing is cached.
Does not know: losses, optimizers, files.

Shape letters: N sequences, T tokens, D width.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import InputError

TOLERANCE = 1e-4  # between full and truncated forward, relative to the largest hidden value


@dataclass(frozen=True)
class BoundaryCache:
    """The input of the last blocks for every training sequence."""

    states: Tensor
    """(N, T, D), in the dtype of the residual stream."""

    @staticmethod
    def build(model: Any, inputs: Tensor, last_layers: int, batch_size: int) -> BoundaryCache | None:
        """States of `inputs` (N, T), or None where nothing is frozen or the guard finds a difference (it says so)."""
        if last_layers in (0, len(model.blocks)):
            return None
        if not _is_exact(model, inputs[:batch_size], last_layers):
            print("boundary cache: the truncated forward differs; training without it", file=sys.stderr)
            return None
        return BoundaryCache(torch.cat([model.boundary(batch, last_layers) for batch in inputs.split(batch_size)]))


def _is_exact(model: Any, inputs: Tensor, last_layers: int) -> bool:
    try:
        truncated = model.from_boundary(model.boundary(inputs, last_layers), last_layers)
    except InputError:  # the architecture cannot be cut here
        return False
    full = model.hidden(inputs)
    return bool((full - truncated).abs().max() <= TOLERANCE * full.abs().max())
