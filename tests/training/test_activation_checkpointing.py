"""Blocks that compute their activations again: the same numbers, and a model that is left as it was.

Alone: pytest tests/training/test_activation_checkpointing.py
"""

import pytest
import torch

from hypergen.training.activation_checkpointing import checkpointed
from tests.training.plans import new_plan, same, sequences, toy, train, weights


@pytest.mark.parametrize("last_layers", [0, 1])
def test_a_training_gives_the_same_bits(last_layers):
    kept, again = toy(), toy()
    expected, losses = train(kept, sequences(8), new_plan(steps=9, last_layers=last_layers))
    result, more = train(again, sequences(8), new_plan(steps=9, last_layers=last_layers, recompute=True))
    assert (result.loss, more) == (expected.loss, losses)
    assert same(weights(again), weights(kept))


def test_blocks_run_twice_while_it_is_entered_and_once_afterwards():
    model, runs = toy(), []
    model.blocks[1].register_forward_hook(lambda *_: runs.append(1))
    plain = type(model.blocks[1]).forward
    model.blocks[1].forward = lambda *given: (runs.append(2), plain(model.blocks[1], *given))[1]
    own = model.blocks[1].forward
    with checkpointed(model.blocks, True):
        model(sequences(2)).sum().backward()
    assert runs == [2, 1, 2]
    assert model.blocks[1].forward is own and "forward" not in vars(model.blocks[0])


def test_it_is_undone_after_an_error():
    model = toy()
    with pytest.raises(KeyError), checkpointed(model.blocks, True):
        raise KeyError
    assert not any("forward" in vars(block) for block in model.blocks)
    assert torch.isfinite(model(sequences(2))).all()


def test_it_changes_nothing_where_it_is_not_wanted():
    model, runs = toy(), []
    model.blocks[1].register_forward_hook(lambda *_: runs.append(1))
    with checkpointed(model.blocks, False):
        model(sequences(2)).sum().backward()
        assert not any("forward" in vars(block) for block in model.blocks)
    assert runs == [1]
