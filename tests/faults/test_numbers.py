"""Row E, first and third: numbers that go wrong, and too little memory. Alone: pytest tests/faults/test_numbers.py"""

import json
import re
from functools import partial

import pytest
import torch

from hypergen.storage import atomic
from hypergen.training import loop as hyperfit
from hypergen.training.batch_order import batch_rows
from tests.faults.conftest import Fits, some
from tests.toy.model import ToyModel


def poison(step, value):
    """One gradient of optimizer step `step` is not finite."""
    real, left = hyperfit.backward, [step]

    def backward(model, *arguments, **options):
        loss = real(model, *arguments, **options)
        if left[0] == 0:
            model.norm.weight.grad[0] = value
        left[0] -= 1
        return loss

    hyperfit.backward = backward


POISONS = [(0, "nan"), (33, "inf"), (1, "inf"), (20, "-inf"), (59, "nan")]


@pytest.mark.parametrize("poisoned", some(POISONS, lambda place: place < 2))
def test_e1_a_gradient_that_is_not_finite_stops_before_the_step(poisoned, fits, whole):
    step, value = poisoned
    outcome = fits(act=partial(poison, step, float(value)))
    rows = batch_rows(0, step, 24, 8).tolist()
    expected = rf"hypergen: step {step}: loss \d+\.\d+, gradient norm (nan|inf), sequences {re.escape(str(rows))}"
    assert outcome.code == 5 and re.search(expected, outcome.told), outcome.told
    assert not (fits.folder / "run" / atomic.MANIFEST).exists()
    fits.goes_on(whole)  # from a checkpoint of finite weights


def shrink(most, first_step):
    """From a step on, `most` sequences at a time fit into the memory."""
    real, real_backward, steps = ToyModel.hidden, hyperfit.backward, [0]

    def hidden(model, tokens):
        if torch.is_grad_enabled() and steps[0] >= first_step and len(tokens) > most:
            raise torch.OutOfMemoryError("no room")
        return real(model, tokens)

    def backward(*arguments, **options):
        steps[0] += 1
        return real_backward(*arguments, **options)

    ToyModel.hidden, hyperfit.backward = hidden, backward


def accumulate(most, first_step):
    """The same training with parts of `most` sequences from that step on, as if it had been told."""
    real = hyperfit._accumulate_gradients

    def told(model, features, rows, batch_size, state):
        if state.step >= first_step:
            state.micro_batch_size = most
        return real(model, features, rows, batch_size, state)

    hyperfit._accumulate_gradients = told


@pytest.mark.parametrize("step", some([7, 0], lambda place: place == 0))
@pytest.mark.parametrize("most", some([2, 4], lambda place: place == 0))
def test_e3_out_of_memory_keeps_the_batch(most, step, tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base)
    outcome = fits(act=partial(shrink, most, step))
    assert outcome.code == 0 and outcome.told.count("out of memory: going on with") == {4: 1, 2: 2}[most]
    assert fits("accumulated", act=partial(accumulate, most, step)).code == 0
    assert fits.result() == fits.result("accumulated")
    training = json.loads((tmp_path / "run" / "hypergen.json").read_text())["training"]
    assert training["micro_batch_size"] == most
