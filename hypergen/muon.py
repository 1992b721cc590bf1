"""Muon (Jordan 2024): momentum whose matrix updates are made orthogonal; the pretraining optimizer of block matrices.

`torch.optim.Muon` always orthogonalizes in bf16, which a processor without bf16 units emulates at about 2 GFLOP/s
(measured; 60 in fp32): minutes a step. This one computes in the precision of the training. No weight decay.
Does not know: models, schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic iteration of the Muon write-up
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Updates (m, n) matrices by `learning_rate * 0.2 * sqrt(max(m, n))` times an orthogonal matrix.

    The factor gives updates the size of AdamW's (arXiv 2502.16982), so that both share one learning rate.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32
    ):
        """Orthogonalize in `dtype`; momentum and weights stay as they are."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group["lr"], group["momentum"])

    def _update(self, matrix: Tensor, gradient: Tensor, lr: float, momentum: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        direction = orthogonalize(gradient.lerp(buffer, momentum).to(self.dtype))
        matrix.add_(direction.to(matrix.dtype), alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end between about 0.7 and 1.2 (Newton-Schulz)."""
    first, third, fifth = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    current = matrix.T if tall else matrix
    current = current / current.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = current @ current.T
        current = first * current + (third * gram + fifth * gram @ gram) @ current
    return current.T if tall else current
