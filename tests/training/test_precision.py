"""The precision of a training: by trial, by name, from a checkpoint. Alone: pytest tests/training/test_precision.py"""

import pytest
import torch

from hypergen.training import loop, precision
from hypergen.training.state import State
from tests.training.plans import changed, new_plan, sequences, toy, train, weights

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A machine with bf16 units whose steps take as many seconds as is said for each precision."""
    monkeypatch.setattr(precision, "has_bf16_units", lambda device: True)
    passed = [0.0]
    monkeypatch.setattr(precision.time, "perf_counter", lambda: passed[0])

    def stepping(**seconds):
        def step(name):
            passed[0] += seconds[name]

        return step

    return stepping


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((0.4, 0.2), "bf16"), ((0.4, 0.4), "fp32"), ((0.4, 0.36), "fp32"), ((0.2, 0.4), "fp32"), ((0.01, 0.001), "fp32")],
)
def test_the_faster_one_is_chosen_and_told(clock, capsys, seconds, expected):
    fp32, bf16 = seconds
    assert precision.choose_precision(clock(fp32=fp32, bf16=bf16), CPU, 100) == expected
    told = capsys.readouterr().err
    assert told == "" if fp32 < precision.WORTH_SECONDS else f"computing in {expected}" in told


def test_a_long_trial_shows_progress(clock, monkeypatch, capsys):
    step = clock(fp32=30.0, bf16=20.0)
    precision.choose_precision(step, CPU, 100, label="trial")
    shown = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("trial: ")]
    assert shown == [f"trial: {done}/4" for done in (1, 2, 3, 4)]
    precision.choose_precision(step, CPU, 100)
    assert "trial: " not in capsys.readouterr().err


def test_no_trial_where_it_cannot_pay(clock, monkeypatch):
    def never(name):
        raise AssertionError(name)

    assert precision.choose_precision(never, CPU, precision.WORTH_STEPS - 1) == "fp32"
    monkeypatch.setattr(precision, "has_bf16_units", lambda device: False)
    assert precision.choose_precision(never, CPU, 1000) == "fp32"


def test_too_little_memory_for_a_trial_needs_bf16(clock):
    def full(name):
        raise torch.OutOfMemoryError("no room")

    assert precision.choose_precision(full, CPU, 1000) == "bf16"


def test_a_trial_leaves_the_training_as_it_was(clock, monkeypatch):
    expected, losses = train(toy(), sequences(8), new_plan(steps=60))
    tried = []

    def choose(step, device, num_steps, *, label):
        assert label == "hyperfit: trial of precisions"
        for name in ("fp32", "bf16"):
            step(name)
            tried.append(name)
        return "fp32"

    monkeypatch.setattr(loop, "choose_precision", choose)
    result, again = train(toy(), sequences(8), new_plan(steps=60, precision="auto"))
    assert tried == ["fp32", "bf16"] and again == losses
    assert (result.loss, result.precision) == (expected.loss, "fp32")


def test_a_resumed_training_keeps_what_was_chosen(monkeypatch):
    monkeypatch.setattr(loop, "choose_precision", lambda *arguments, **_: pytest.fail("a second trial"))
    result, _ = train(toy(), sequences(8), new_plan(steps=4, precision="auto"), state=State(precision="bf16"))
    assert result.precision == "bf16"


def test_frozen_16_bit_weights_are_not_doubled_for_a_trial(monkeypatch):
    monkeypatch.setattr(loop, "choose_precision", lambda *arguments, **_: pytest.fail("a trial"))
    result, _ = train(toy().bfloat16(), sequences(8), new_plan(steps=4, last_layers=1, precision="auto"))
    assert result.precision == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_papers_learning_rate_moves_the_weights(precision):
    """Also where the base came in bf16, whose weights 1e-6 cannot move."""
    model = toy().bfloat16()
    before = {name: weight.float() for name, weight in weights(model).items()}
    train(model, sequences(8), new_plan(steps=20, learning_rate=1e-6, precision=precision))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert changed(before, weights(model)) == set(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bf16_base_trains_its_last_layers(precision):
    """Frozen weights may stay in 16 bits only where autocast brings both together."""
    model = toy().bfloat16()
    result, _ = train(model, sequences(8), new_plan(steps=60, last_layers=1, learning_rate=1e-2, precision=precision))
    trained = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    frozen = {weight.dtype for weight in model.parameters() if not weight.requires_grad}
    assert trained == {torch.float32}
    assert frozen == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert result.loss < 1.5


def test_bf16_compute_agrees_with_fp32():
    tokens = sequences(8)
    losses = [train(toy(), tokens, new_plan(steps=20, precision=precision))[0].loss for precision in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_autocast_computes_in_bf16_and_leaves_weights_alone():
    model = toy()
    with precision.autocast("bf16", CPU):
        assert model.output(torch.zeros(1, 16)).dtype == torch.bfloat16
    with precision.autocast("fp32", CPU):
        assert model.output(torch.zeros(1, 16)).dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_frozen", [True, False])
def test_the_cast_of_a_frozen_weight_is_kept_inside_of_autocast(is_frozen):
    """A trained weight changes, and outside of autocast nothing is computed in bf16."""
    layer, inputs, casts = torch.nn.Linear(4, 3), torch.randn(2, 4), precision.FrozenCasts()
    layer.requires_grad_(not is_frozen)
    with casts:
        assert layer(inputs).dtype == torch.float32
        with precision.autocast("bf16", torch.device("cpu")):
            first = layer(inputs)
        layer.weight.data = torch.zeros(3, 4)
        with precision.autocast("bf16", torch.device("cpu")):
            second = layer(inputs)
    assert first.dtype == second.dtype == torch.bfloat16
    assert second.equal(first) == is_frozen
