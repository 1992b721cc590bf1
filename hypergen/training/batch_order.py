"""Order the batches: a pure function of (seed, epoch), so that a checkpoint need not hold it.

No other randomness exists in training.

Shape letters: N sequences, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypergen.runtime.seeding import seeded_generator


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Permute the rows of `count` sequences for an epoch -> (N,)."""
    return torch.randperm(count, generator=seeded_generator(seed, "epoch", epoch))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Count the batches of an epoch; the last one may be smaller, as no row is dropped."""
    return -(-count // batch_size)


def batch_rows(seed: int, step: int, count: int, batch_size: int) -> Tensor:
    """Select the rows of an optimizer step -> (B,); `step` is counted from 0 over all epochs."""
    epoch, index = divmod(step, steps_per_epoch(count, batch_size))
    return epoch_order(seed, epoch, count)[index * batch_size : (index + 1) * batch_size]
