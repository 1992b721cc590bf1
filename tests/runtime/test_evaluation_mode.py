"""A model's mode is given back whatever happens. Alone: pytest tests/runtime/test_evaluation_mode.py"""

import pytest
from torch import nn

from hypergen.runtime.evaluation_mode import evaluating, training


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("failure", [None, KeyError, KeyboardInterrupt])
def test_the_former_mode_comes_back(mode, failure):
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train(mode)
    try:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            if failure is not None:
                raise failure
    except (KeyError, KeyboardInterrupt) as error:
        assert type(error) is failure
    assert all(module.training is mode for module in model.modules())


def test_one_inside_the_other():
    model = nn.Linear(2, 2).train()
    with evaluating(model):
        with evaluating(model):
            pass
        assert not model.training
    assert model.training


def test_training_mode_ends_whatever_is_raised():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).eval()
    with training(model):
        assert model.training
    assert not model.training
    with pytest.raises(KeyError), training(model):
        raise KeyError
    assert not model.training
