"""Warm-up and cosine, against the two formulas that this one replaced. Alone: pytest tests/training/test_schedule.py"""

import math
import struct

import pytest

from hypergen.image import vq_training
from hypergen.training import optimizers
from hypergen.training.schedule import warmup_cosine

STEPS = [1, 2, 3, 10, 50, 200, 1000, 6000]


def of_pretraining(step, steps):
    """As `optimizers.set_learning_rate` had it."""
    warm_up = max(1, round(0.02 * steps))
    progress = max(0.0, (step - warm_up) / max(1, steps - warm_up))
    share = 0.05 + (1 - 0.05) * (1 + math.cos(math.pi * progress)) / 2
    return min(share, (step + 1) / warm_up)


def of_pictures(step, steps):
    """As `vq_training.learning_rate_share` had it."""
    warm_up = max(1, round(0.03 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def as_float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


@pytest.mark.parametrize("steps", STEPS)
def test_pretraining_has_the_same_bits(steps):
    shares = {"warmup_share": optimizers.WARMUP_SHARE, "floor_share": optimizers.FLOOR_SHARE}
    rates = [3e-3 * warmup_cosine(step, steps, **shares) for step in range(steps)]
    assert rates == [3e-3 * of_pretraining(step, steps) for step in range(steps)]


@pytest.mark.parametrize("steps", STEPS)
def test_the_picture_tokenizer_has_the_same_bits_in_the_precision_of_its_weights(steps):
    """In doubles the last bits may differ: pi (a / b) is not (pi a) / b. An fp32 update cannot see it."""
    shares = {"warmup_share": vq_training.WARMUP_SHARE, "floor_share": vq_training.FLOOR_SHARE}
    rates = [vq_training.LEARNING_RATE * warmup_cosine(step, steps, **shares) for step in range(steps)]
    former = [vq_training.LEARNING_RATE * of_pictures(step, steps) for step in range(steps)]
    assert rates == pytest.approx(former, rel=1e-14, abs=0)
    assert list(map(as_float32, rates)) == list(map(as_float32, former))


@pytest.mark.parametrize("steps", STEPS)
def test_it_rises_to_the_peak_and_falls_towards_the_floor(steps):
    shares = [warmup_cosine(step, steps, warmup_share=0.1, floor_share=0.2) for step in range(steps)]
    top = max(1, round(0.1 * steps)) - 1
    assert shares[top] == 1.0 == max(shares)
    assert shares[:top] == sorted(set(shares[:top])) and shares[top:] == sorted(shares[top:], reverse=True)
    assert all(share > 0.2 for share in shares[top:])


def test_it_ends_at_the_floor():
    assert warmup_cosine(100, 100, warmup_share=0.1, floor_share=0.2) == pytest.approx(0.2)
