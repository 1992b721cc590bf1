"""Check that trained weights really move: updates below their rounding step would train nothing, unseen.

At a learning rate of 1e-6 a bf16 weight cannot change, which is why trained weights are fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError

CHECKED_STEPS = 20  # of one process; a resumed one checks anew
SAMPLED = 4096  # weights of a parameter, about


class UpdateCheck:
    """Compare a sample of the weights with their former values after CHECKED_STEPS steps.

    Of the sampled weights that got a gradient, at least half must have changed.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        """Remember the sampled weights as they are before the first step."""
        self.parameters, self.steps = parameters, 0
        self.strides = [max(1, parameter.numel() // SAMPLED) for parameter in parameters]
        self.before = [self._sample(p.detach(), s).clone() for p, s in zip(parameters, self.strides, strict=True)]
        self.with_gradient = [torch.zeros_like(sample, dtype=torch.bool) for sample in self.before]

    @staticmethod
    def _sample(values: Tensor, stride: int) -> Tensor:
        return values.reshape(-1)[::stride]

    def observe(self) -> None:
        """Note which weights get gradients, after each step while the gradients are there; the last step decides.

        Raises:
            HypergenError: fewer than half have moved.
        """
        self.steps += 1
        if self.steps > CHECKED_STEPS:
            return
        for parameter, stride, with_gradient in zip(self.parameters, self.strides, self.with_gradient, strict=True):
            if parameter.grad is not None:
                with_gradient |= self._sample(parameter.grad, stride) != 0
        if self.steps == CHECKED_STEPS:
            self._check()

    def _check(self) -> None:
        num_moved = num_expected = 0
        for parameter, stride, before, with_gradient in zip(
            self.parameters, self.strides, self.before, self.with_gradient, strict=True
        ):
            moved = self._sample(parameter.detach(), stride) != before
            num_moved += int((moved & with_gradient).sum())
            num_expected += int(with_gradient.sum())
        if num_moved < num_expected / 2:
            raise HypergenError(
                f"after {CHECKED_STEPS} steps {num_moved / num_expected:.0%} of the trained weights have moved "
                "(at least 50% must): the learning rate is below their rounding step"
            )
