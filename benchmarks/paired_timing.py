"""Time two ways to do the same fairly: ours, theirs, theirs, ours (ABBA) in one process, again and again.

The ratio is the median over rounds of (theirs + theirs) / (ours + ours), with a bootstrap 95 % interval of the mean.
Where ours is shorter it runs several times in a row, so that both sides are timed over about as long.
The two times of ours in each round are the control: where they differ by more than 5 % in the median, the machine was
not quiet, and no ratio is given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hypergen.evaluation.bootstrap import bootstrap_interval

ALLOWED_CONTROL = 0.05  # how far ours against ours may be from 1
MOST_REPEATS = 8
Seconds = Callable[[], float]  # runs once and returns how long it took


def timed(call: Callable[[], Any]) -> Seconds:
    """Measure the wall time of a whole call, work queued on a GPU included."""

    def seconds() -> float:
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return seconds


def time_pair(ours: Seconds, theirs: Seconds, rounds: int) -> dict[str, Any]:
    """Time both in turn, as one case of a record; `ratio` is missing where the control is off."""
    ours(), theirs()  # warm-up
    repeats = min(MOST_REPEATS, max(1, round(theirs() / ours())))

    def our_mean() -> float:
        return sum(ours() for _ in range(repeats)) / repeats

    times = [(our_mean(), theirs(), theirs(), our_mean()) for _ in range(rounds)]
    control = statistics.median(first / last for first, _, _, last in times)
    ratios = [(second + third) / (first + last) for first, second, third, last in times]
    record: dict[str, Any] = {
        "seconds": statistics.median(0.5 * (first + last) for first, _, _, last in times),
        "their_seconds": statistics.median(0.5 * (second + third) for _, second, third, _ in times),
        "control": control,
        "rounds": rounds,
        "repeats": repeats,
    }
    if abs(control - 1) > ALLOWED_CONTROL:
        return record | {"refused": f"ours against ours is {control:.3f}: the machine was not quiet"}
    low, high = bootstrap_interval(ratios, seed=0)
    return record | {"ratio": statistics.median(ratios), "low": low, "high": high}


def read_bandwidth(size: int) -> float:
    """Measure the bytes a second at which a tensor of `size` bytes is summed, the best of 15."""
    data = torch.ones(max(1, size // 4))
    return size / min(timed(data.sum)() for _ in range(15))


def matmul_rate(dtype: torch.dtype = torch.float32, rows: int = 1024) -> float:
    """Measure the operations a second of a matrix product, the best of 8."""
    one, other = (torch.randn(rows, rows).to(dtype) for _ in range(2))
    return 2 * rows**3 / min(timed(lambda: one @ other)() for _ in range(8))


def roofline_seconds(weights: int, cache_per_token: int, parameters: int, rows: float, length: float) -> float:
    """Compute the seconds that a decoding step needs at least: weights and cache read once, or the products alone.

    Args:
        weights: bytes of the weights.
        cache_per_token: bytes of keys and values.
        parameters: weights; each takes two operations a row.
        rows: sequences decoded together.
        length: tokens in the cache.
    """
    read = weights + rows * cache_per_token * length
    return max(read / read_bandwidth(int(read)), 2 * rows * parameters / matmul_rate())
