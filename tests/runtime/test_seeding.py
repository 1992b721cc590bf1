"""Draws of one purpose depend on nothing else. Alone: pytest tests/runtime/test_seeding.py"""

import torch

from hypergen.runtime.seeding import seeded_generator


def first_draw(*purpose, seed=0):
    return torch.rand(1, generator=seeded_generator(seed, *purpose)).item()


def test_purposes_differ():
    """("a", 11) and ("a1", 1) must not run together."""
    purposes = [(), ("row", 1), ("row", 11), ("row1", 1), ("epoch", 1), ("epoch", 1, 1)]
    assert len({first_draw(*purpose) for purpose in purposes}) == len(purposes)


def test_seeds_differ_and_are_as_recorded():
    assert first_draw("split") == first_draw("split") != first_draw("split", seed=1)
    drawn = torch.randint(1000, (4,), generator=seeded_generator(0, "split")).tolist()
    assert drawn == [601, 550, 515, 905]  # as in every run of version 0.1.0


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first_draw("anything")
    assert torch.get_rng_state().equal(before)


def test_largest_seeds_work():
    assert first_draw(seed=2**63 - 1) != first_draw(seed=-(2**63))
