"""The optimizers of hyperfitting and pretraining, and the learning rate of each step.

Hyperfitting: AdamW at a constant rate, without decay (arXiv 2412.04318). Pretraining: Muon for the matrices of the
blocks beside AdamW, linear warm-up, then cosine.
Does not know: losses, batches, what a token means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hypergen.muon import Muon

if TYPE_CHECKING:
    from hypergen.hyperfit import Plan

WARM_UP_SHARE, FLOOR_SHARE = 0.02, 0.05  # of the steps, and of the learning rate, for the cosine schedule
BETAS, PRETRAIN_BETAS = (0.9, 0.999), (0.9, 0.95)


def new_optimizers(model: Any, names: Mapping[str, nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW without decay for hyperfitting; Muon on the blocks' matrices beside AdamW for pretraining."""
    if not plan.pretraining:
        return [torch.optim.AdamW(names.values(), plan.learning_rate, BETAS, weight_decay=0.0, fused=True)]
    in_blocks = {id(parameter) for block in model.blocks for parameter in block.parameters() if parameter.ndim == 2}
    matrices = [parameter for parameter in names.values() if id(parameter) in in_blocks]
    others = [parameter for parameter in names.values() if id(parameter) not in in_blocks]
    adam = torch.optim.AdamW(others, plan.learning_rate, PRETRAIN_BETAS, weight_decay=0.0, fused=True)
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    return [Muon(matrices, plan.learning_rate, dtype=dtype), adam]


def set_learning_rate(optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> None:
    """That of this step, counted from 0; it changes in pretraining only."""
    if not plan.pretraining:
        return
    warm_up = max(1, round(WARM_UP_SHARE * plan.steps))
    progress = max(0.0, (step - warm_up) / max(1, plan.steps - warm_up))
    share = FLOOR_SHARE + (1 - FLOOR_SHARE) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * min(share, (step + 1) / warm_up)
