"""Finds out whether trained weights really move: updates below their rounding step would train nothing, unseen.

Of a sample of the weights that get gradients, at least half must have changed after MOVEMENT_STEPS steps. At a learning
rate of 1e-6 a bf16 weight cannot change, which is why trained weights are fp32.
Does not know: losses, optimizers, where the gradients come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError

MOVEMENT_STEPS = 20  # of one process; a resumed one judges anew
SAMPLED = 4096  # weights of a parameter, about


class Movement:
    """`observe()` after each step, while the gradients are there; the last of MOVEMENT_STEPS judges.

    Raises:
        HypergenError: fewer than half have moved.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters, self.steps = parameters, 0
        self.strides = [max(1, parameter.numel() // SAMPLED) for parameter in parameters]
        self.before = [self._sample(p.detach(), s).clone() for p, s in zip(parameters, self.strides, strict=True)]
        self.touched = [torch.zeros_like(sample, dtype=torch.bool) for sample in self.before]

    @staticmethod
    def _sample(values: Tensor, stride: int) -> Tensor:
        return values.reshape(-1)[::stride]

    def observe(self) -> None:
        self.steps += 1
        if self.steps > MOVEMENT_STEPS:
            return
        for parameter, stride, touched in zip(self.parameters, self.strides, self.touched, strict=True):
            if parameter.grad is not None:
                touched |= self._sample(parameter.grad, stride) != 0
        if self.steps == MOVEMENT_STEPS:
            self._judge()

    def _judge(self) -> None:
        moved = touched_total = 0
        for parameter, stride, before, touched in zip(
            self.parameters, self.strides, self.before, self.touched, strict=True
        ):
            changed = self._sample(parameter.detach(), stride) != before
            moved += int((changed & touched).sum())
            touched_total += int(touched.sum())
        if moved < touched_total / 2:
            share = moved / touched_total
            raise HypergenError(
                f"after {MOVEMENT_STEPS} steps {share:.0%} of the trained weights have moved (at least 50% must): "
                "the learning rate is below their rounding step"
            )
