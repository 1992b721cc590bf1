"""The order of batches. Alone: pytest tests/training/test_batch_order.py"""

import pytest
import torch

from hypergen.runtime.seeding import seeded_generator
from hypergen.training.batch_order import batch_rows, epoch_order, steps_per_epoch

SIZES = [(1, 1), (1, 8), (7, 1), (7, 3), (8, 4), (9, 8), (100, 16)]


def epoch_batches(seed, epoch, count, batch_size):
    steps = steps_per_epoch(count, batch_size)
    return [batch_rows(seed, epoch * steps + index, count, batch_size) for index in range(steps)]


@pytest.mark.parametrize("count, batch_size", SIZES)
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_epoch_visits_every_row_once(count, batch_size, epoch):
    batches = epoch_batches(3, epoch, count, batch_size)
    assert torch.cat(batches).sort().values.tolist() == list(range(count))
    assert torch.cat(batches).equal(epoch_order(3, epoch, count))


@pytest.mark.parametrize("count, batch_size", SIZES)
def test_only_the_last_batch_is_smaller(count, batch_size):
    *whole, last = (len(rows) for rows in epoch_batches(0, 0, count, batch_size))
    assert set(whole) <= {batch_size}
    assert last == (count - 1) % batch_size + 1


def test_same_seed_and_epoch_same_order():
    assert epoch_order(7, 2, 50).equal(epoch_order(7, 2, 50))


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=seeded_generator(0, "anything"))
    epoch_order(0, 0, 10)
    assert torch.get_rng_state().equal(before)


def test_purposes_differ():
    """("a", 11) and ("a1", 1) must not run together."""
    purposes = [(), ("row", 1), ("row", 11), ("row1", 1), ("epoch", 1), ("epoch", 1, 1)]
    draws = {torch.rand(1, generator=seeded_generator(0, *purpose)).item() for purpose in purposes}
    assert len(draws) == len(purposes)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_largest_seeds_work(seed):
    assert len(epoch_order(seed, 0, 3)) == 3
