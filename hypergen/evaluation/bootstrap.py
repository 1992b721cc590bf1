"""Estimate how far a mean would move with other examples: percentile bootstrap intervals, and records of them.

The only metric it knows by name is `loss`, from which the perplexity follows.

Shape letters: B values, one an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.evaluation.predictions import perplexity


def summaries(values: Mapping[str, Tensor], seed: int) -> dict[str, dict[str, float]]:
    """Summarize each metric, and add `perplexity` where there is a `loss`.

    Perplexity is that of the mean loss and of the ends of its interval, which a percentile interval allows: it moves
    with any rising function.
    """
    numbers = {name: summary(value, seed) for name, value in values.items()}
    if "loss" in numbers:
        numbers["perplexity"] = {part: perplexity(value) for part, value in numbers["loss"].items()}
    return numbers


def summary(values: Tensor, seed: int) -> dict[str, float]:
    """Summarize (B,) numbers as their mean and its bootstrap 95 % interval; one number () has no interval."""
    mean = {"mean": values.double().nanmean().item()}
    if values.ndim == 0 or bool(values.isnan().all()):
        return mean
    low, high = bootstrap_interval(values, seed)
    return mean | {"low": low, "high": high}


def bootstrap_interval(
    values: Tensor | Sequence[float], seed: int, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """Compute (low, high), the percentile bootstrap interval of the mean of (B,) values; nan values are skipped.

    Both are in the unit of the values.
    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.

    Raises:
        InputError: no value is a number, the level is not between 0 and 1, or there are no resamples.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    numbers = numbers[~numbers.isnan()]
    if not len(numbers):
        raise InputError(f"interval of {len(values)} values: at least 1 must be a number")
    if not 0 < level < 1:
        raise InputError(f"interval level {level}: must be between 0 and 1")
    if resamples < 1:
        raise InputError(f"resamples {resamples}: must be 1 or more")
    generator = torch.Generator().manual_seed(seed)
    means = numbers[torch.randint(len(numbers), (resamples, len(numbers)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high
