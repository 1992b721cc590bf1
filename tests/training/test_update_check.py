"""Updates that are rounded away do not pass unseen. Alone: pytest tests/training/test_update_check.py"""

import pytest
import torch
from torch import nn

from hypergen.errors import HypergenError
from hypergen.training.state import State
from hypergen.training.update_check import CHECKED_STEPS, SAMPLED, UpdateCheck
from tests.training.plans import new_plan, sequences, toy, train


def test_updates_that_are_rounded_away_are_an_error():
    with pytest.raises(
        HypergenError, match=r"^after 20 steps \d+% of the trained weights have moved .* rounding step$"
    ):
        train(toy(), sequences(8), new_plan(steps=40, learning_rate=1e-12))


def test_rounding_is_judged_after_20_steps_of_this_process(tmp_path):
    train(toy(), sequences(8), new_plan(steps=19, learning_rate=1e-12))
    with pytest.raises(HypergenError, match="have moved"):
        train(toy(), sequences(8), new_plan(steps=41, learning_rate=1e-12), state=State(step=21))
    train(toy(), sequences(8), new_plan(steps=40, learning_rate=1e-12), state=State(step=21))


def observed(moved, with_gradient, size=100):
    """A check after CHECKED_STEPS steps in which the first `moved` of some weights changed."""
    weight = nn.Parameter(torch.zeros(size))
    check = UpdateCheck([weight])
    weight.grad = torch.zeros(size)
    weight.grad[:with_gradient] = 1
    for _ in range(CHECKED_STEPS):
        with torch.no_grad():
            weight[:moved] += 1
        check.observe()
    return check


def test_half_of_those_with_a_gradient_is_enough():
    observed(moved=10, with_gradient=20)
    with pytest.raises(HypergenError, match="45% of the trained weights have moved"):
        observed(moved=9, with_gradient=20)


def test_nothing_is_asked_of_weights_without_a_gradient():
    """Such as the embeddings of ids that no sequence has."""
    observed(moved=0, with_gradient=0)
    observed(moved=1, with_gradient=2)


def test_weights_that_move_without_a_gradient_do_not_count():
    weight = nn.Parameter(torch.zeros(100))
    check = UpdateCheck([weight])
    weight.grad = (torch.arange(100) < 50).float()
    with pytest.raises(HypergenError, match="0% of the trained weights have moved"):
        for _ in range(CHECKED_STEPS):
            with torch.no_grad():
                weight[50:] += 1
            check.observe()


def test_it_judges_once():
    check = observed(moved=100, with_gradient=100)
    check.parameters[0].data.zero_()
    check.observe()


def test_of_a_large_matrix_a_sample_is_kept():
    check = UpdateCheck([nn.Parameter(torch.zeros(300, 1000))])
    assert SAMPLED <= check.before[0].numel() <= 2 * SAMPLED
