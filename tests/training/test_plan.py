"""Plans have no defaults, and hooks do nothing by default. Alone: pytest tests/training/test_plan.py"""

from dataclasses import MISSING, fields

import pytest

from hypergen.training.loop import hyperfit
from hypergen.training.plan import FitResult, Plan, TrainingHooks
from tests.training.plans import DEFAULTS, new_plan, sequences, toy


@pytest.mark.parametrize("kind", [Plan, FitResult])
def test_no_field_has_a_default(kind):
    """Defaults are in `config`, once."""
    assert all(field.default is MISSING and field.default_factory is MISSING for field in fields(kind))


@pytest.mark.parametrize("name", [field.name for field in fields(Plan)])
def test_a_forgotten_value_is_an_error(name):
    given = {field: value for field, value in DEFAULTS.items() if field != name}
    with pytest.raises(TypeError, match=name):
        Plan(**given)


def test_the_defaults_of_hooks_do_nothing():
    hooks = TrainingHooks()
    assert hooks.state is None
    assert hooks.on_epoch(1, 0.5) is hooks.on_checkpoint(None) is None
    assert hooks.stop_rule(1) is hooks.stop_signal() is None
    with hooks.whole_steps() as entered:
        assert entered is None


def test_hooks_are_used_by_several_trainings():
    """`whole_steps` makes a new context for each."""
    hooks = TrainingHooks()
    results = [hyperfit(toy(), sequences(4), new_plan(), hooks) for _ in range(2)]
    assert results[0].loss == results[1].loss
