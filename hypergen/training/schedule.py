"""Compute the learning rate's share of its peak at a step: linear warm-up, then half a cosine."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, *, warmup_share: float, floor_share: float) -> float:
    """Compute the share of the peak learning rate at a step.

    Args:
        step: counted from 0.
        steps: of the whole training.
        warmup_share: of the steps, in which the rate rises to its peak; one step at least.
        floor_share: of the peak, towards which the rate falls.
    """
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor_share + (1 - floor_share) * (1 + math.cos(math.pi * progress)) / 2
