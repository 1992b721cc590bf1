"""Make the optimizers: AdamW for hyperfitting, Muon beside it for the block matrices of a pretraining.

Muon (Jordan 2024) makes the momentum of a matrix orthogonal before it is applied. `torch.optim.Muon` always
orthogonalizes in bf16, which a processor without bf16 units emulates at about 2 GFLOP/s (measured; 60 in fp32): minutes
a step. Ours computes in the precision of the training. No weight decay anywhere: hyperfitting wants to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from hypergen.modality import TrainableModel
from hypergen.training.plan import Plan
from hypergen.training.schedule import warmup_cosine

BETAS, PRETRAIN_BETAS = (0.9, 0.999), (0.9, 0.95)  # of AdamW
WARMUP_SHARE, FLOOR_SHARE = 0.02, 0.05  # of the steps, and of the learning rate, in pretraining
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration in the Muon write-up
ITERATIONS = 5


def new_optimizers(
    model: TrainableModel, parameters: Mapping[str, nn.Parameter], plan: Plan
) -> list[torch.optim.Optimizer]:
    """Make AdamW without decay for hyperfitting; Muon on the blocks' matrices beside AdamW for pretraining."""
    if not plan.pretraining:
        return [torch.optim.AdamW(parameters.values(), plan.learning_rate, BETAS, weight_decay=0.0, fused=True)]
    in_blocks = {id(parameter) for block in model.blocks for parameter in block.parameters() if parameter.ndim == 2}
    matrices = [parameter for parameter in parameters.values() if id(parameter) in in_blocks]
    others = [parameter for parameter in parameters.values() if id(parameter) not in in_blocks]
    adam = torch.optim.AdamW(others, plan.learning_rate, PRETRAIN_BETAS, weight_decay=0.0, fused=True)
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    return [Muon(matrices, plan.learning_rate, dtype=dtype), adam]


def set_learning_rate(optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> None:
    """Set the learning rate of a step, counted from 0; it changes in pretraining only."""
    if not plan.pretraining:
        return
    share = warmup_cosine(step, plan.steps, warmup_share=WARMUP_SHARE, floor_share=FLOOR_SHARE)
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * share


class Muon(torch.optim.Optimizer):
    """Update (m, n) matrices by `learning_rate * 0.2 * sqrt(max(m, n))` times an orthogonal matrix.

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
        """Update every matrix that has a gradient; a closure is not called."""
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
    """Approximate the nearest semi-orthogonal matrix (Newton-Schulz): singular values end near 1, from 0.7 to 1.2."""
    first, third, fifth = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    current: Tensor = matrix.T if is_tall else matrix
    current = current / current.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = current @ current.T
        current = first * current + (third * gram + fifth * gram @ gram) @ current
    return current.T if is_tall else current
