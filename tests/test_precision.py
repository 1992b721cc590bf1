"""The precision of a training: by trial, by name, from a checkpoint."""

import pytest
import torch

from hypergen import hyperfit as loop
from hypergen import precision
from hypergen.config import DecodingConfig
from hypergen.generation import generate
from hypergen.training_state import State
from tests.test_hyperfit import TiedToy, plan, sequences, toy, train

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
    assert precision.choose(clock(fp32=fp32, bf16=bf16), CPU, 100) == expected
    told = capsys.readouterr().err
    assert told == "" if fp32 < precision.WORTH_SECONDS else f"computing in {expected}" in told


def test_no_trial_where_it_cannot_pay(clock, monkeypatch):
    def never(name):
        raise AssertionError(name)

    assert precision.choose(never, CPU, precision.WORTH_STEPS - 1) == "fp32"
    monkeypatch.setattr(precision, "has_bf16_units", lambda device: False)
    assert precision.choose(never, CPU, 1000) == "fp32"


def test_too_little_memory_for_a_trial_needs_bf16(clock):
    def full(name):
        raise torch.OutOfMemoryError("no room")

    assert precision.choose(full, CPU, 1000) == "bf16"


def test_a_trial_leaves_the_training_as_it_was(clock, monkeypatch):
    expected, losses = train(toy(), sequences(8), plan(60))
    tried = []

    def choose(step, device, num_steps):
        for name in ("fp32", "bf16"):
            step(name)
            tried.append(name)
        return "fp32"

    monkeypatch.setattr(loop, "choose", choose)
    result, again = train(toy(), sequences(8), plan(60, precision="auto"))
    assert tried == ["fp32", "bf16"] and again == losses
    assert (result.loss, result.precision) == (expected.loss, "fp32")


def test_a_resumed_training_keeps_what_was_chosen(monkeypatch):
    monkeypatch.setattr(loop, "choose", lambda *arguments: pytest.fail("a second trial"))
    result, _ = train(toy(), sequences(8), plan(4, precision="auto"), state=State(precision="bf16"))
    assert result.precision == "bf16"


def test_frozen_16_bit_weights_are_not_doubled_for_a_trial(monkeypatch):
    monkeypatch.setattr(loop, "choose", lambda *arguments: pytest.fail("a trial"))
    result, _ = train(toy().bfloat16(), sequences(8), plan(4, last_layers=1, precision="auto"))
    assert result.precision == "bf16"


def test_a_bf16_copy_leaves_the_model_and_its_buffers_as_they_were():
    model = toy()
    model.register_buffer("frequencies", torch.arange(3.0))
    before = [weight.clone() for weight in model.parameters()]
    copied = precision.in_bf16(model)
    assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
    assert copied.frequencies.dtype == torch.float32
    assert all(weight.equal(old) for weight, old in zip(model.parameters(), before, strict=True))


def test_tied_weights_stay_tied_in_the_copy():
    copied = precision.in_bf16(toy(TiedToy))
    assert copied.output.weight is copied.embedding.weight


def test_agreement_counts_the_places_where_both_find_the_same_token(monkeypatch):
    model = toy()
    share, places = precision.agreement(model, list(sequences(6)))
    assert places == 6 * 11 and 0.9 < share <= 1
    monkeypatch.setattr(precision, "in_bf16", lambda _: toy(seed=1))
    assert precision.agreement(model, list(sequences(6)))[0] < 0.5


def test_decoding_in_bf16_is_greedy_on_the_copy():
    model = toy().eval()
    prompts = sequences(4)[:, :3]
    ids = generate(model, prompts, 6, DecodingConfig(precision="bf16"))
    assert ids.equal(generate(precision.in_bf16(model), prompts, 6))
