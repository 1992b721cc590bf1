"""A state goes back only into the training that it came from. Alone: pytest tests/training/test_state.py"""

import pytest
import torch

from hypergen.errors import CheckpointError
from hypergen.training.state import State, restore, snapshot


def trained(steps=2, shape=(3, 4)):
    weights = {"a": torch.nn.Parameter(torch.ones(shape)), "b": torch.nn.Parameter(torch.ones(5))}
    optimizer = torch.optim.AdamW(weights.values(), 1e-2, fused=True)
    for _ in range(steps):
        sum((weight**3).sum() for weight in weights.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights, [optimizer]


def test_there_and_back():
    weights, optimizers = trained()
    state = snapshot(weights, optimizers, State(step=2, epoch_loss=0.5, epoch_correct=9, micro_batch_size=4))
    fresh, others = trained(0)
    counts = restore(fresh, others, state)
    assert counts == State(step=2, epoch_loss=0.5, epoch_correct=9, micro_batch_size=4)
    assert all(fresh[name].equal(weights[name]) for name in weights)
    again = snapshot(fresh, others, counts).tensors
    assert again.keys() == state.tensors.keys() and all(again[name].equal(state.tensors[name]) for name in again)


def without(name):
    return lambda tensors: tensors.pop(name)


DAMAGES = {
    "weight missing": without("weight.a"),
    "weight too many": lambda tensors: tensors.update({"weight.c": torch.ones(1)}),
    "weight of another shape": lambda tensors: tensors.update({"weight.a": torch.ones(4, 3)}),
    "moment of another shape": lambda tensors: tensors.update({"optimizer.0.0.exp_avg": torch.ones(4, 3)}),
    "moment missing": without("optimizer.0.1.exp_avg"),
    "optimizer too many": lambda tensors: tensors.update({"optimizer.1.0.exp_avg": torch.ones(3, 4)}),
    "parameter too many": lambda tensors: tensors.update({"optimizer.0.7.exp_avg": torch.ones(3, 4)}),
    "no number": lambda tensors: tensors.update({"optimizer.x.0.exp_avg": torch.ones(3, 4)}),
    "another name": lambda tensors: tensors.update({"something": torch.ones(3, 4)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_does_not_fit_is_refused_and_nothing_is_copied(damage):
    weights, optimizers = trained()
    state = snapshot(weights, optimizers, State(step=2))
    damage(state.tensors)
    fresh, others = trained(0)
    with pytest.raises(
        CheckpointError, match=r"^checkpoint: \d+ tensors do not fit this model, the first is "
    ) as error:
        restore(fresh, others, state)
    assert error.value.exit_code == 3
    assert all(bool((weight == 1).all()) for weight in fresh.values())
