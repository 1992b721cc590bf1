"""Entropy-matched temperature and static bias. Alone: pytest tests/evaluation/test_calibration.py"""

import math

import pytest
import torch

from hypergen.decoding.loop import generate
from hypergen.errors import InputError
from hypergen.evaluation.calibration import (
    Adjusted,
    log_probability_change,
    matching_temperature,
    mean_log_probabilities,
)
from hypergen.evaluation.predictions import prediction_values
from tests.toy.model import ToyModel

NUM_TOKENS = 18


def toy(seed=0, sharpness=8.0):
    model = ToyModel(num_tokens=NUM_TOKENS, context_length=40, seed=seed).eval()
    model.output.weight.data *= sharpness
    return model


def random_tokens(count=11, length=16):
    return torch.randint(NUM_TOKENS, (count, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def entropy_at(model, tokens, temperature):
    """The definition, with all logits at once in float64."""
    log_probabilities = (model(tokens[:, :-1]).double() / temperature).log_softmax(-1)
    return float(-(log_probabilities.exp() * log_probabilities).sum(-1).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", [1e-2, 0.3, 1.0, 2.0, 2.8])
def test_temperature_gives_the_entropy(seed, target):
    model, tokens = toy(seed), random_tokens()
    temperature = matching_temperature(model, tokens, target)
    assert abs(entropy_at(model, tokens, temperature) - target) < 1e-3
    measured = prediction_values(Adjusted(model, temperature), tokens)["entropy"].mean()
    assert abs(float(measured) - target) < 1e-3


def test_temperature_of_one_for_the_entropy_that_is_there():
    model, tokens = toy(), random_tokens()
    there = float(prediction_values(model, tokens)["entropy"].mean())
    assert matching_temperature(model, tokens, there) == 1.0


@pytest.mark.parametrize("target", [math.log(NUM_TOKENS) + 0.1, -0.1, math.nan])
def test_an_entropy_that_no_temperature_gives(target):
    with pytest.raises(InputError, match=r"no temperature from 0\.001 to 1000 gives it"):
        matching_temperature(toy(), random_tokens(), target)


def test_greedy_text_stays_at_the_matched_temperature():
    """Why the control must sample: whatever T is, the order of the tokens is the same."""
    model, tokens = toy(), random_tokens()
    temperature = matching_temperature(model, tokens, 0.5)
    assert generate(Adjusted(model, temperature=temperature), tokens, 20).equal(generate(model, tokens, 20))


def test_mean_log_probabilities_are_those_of_all_positions():
    model, tokens = toy(), random_tokens()
    with torch.no_grad():
        expected = model(tokens[:, :-1]).log_softmax(-1).double().flatten(0, 1).mean(0)
    torch.testing.assert_close(mean_log_probabilities(model, tokens), expected)


def test_a_bias_is_added_wherever_logits_appear():
    model, tokens = toy(), random_tokens()
    bias = torch.randn(NUM_TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    biased = Adjusted(model, bias=bias)
    with torch.no_grad():
        torch.testing.assert_close(biased.head(biased.hidden(tokens)), model(tokens) + bias.float())
    prefix, expected = tokens, []
    for _ in range(10):
        with torch.no_grad():
            token = (model(prefix)[:, -1] + bias.float()).argmax(-1, keepdim=True)
        prefix = torch.cat([prefix, token], 1)
        expected.append(token)
    assert generate(biased, tokens, 10).equal(torch.cat(expected, 1))
    assert not generate(model, tokens, 10).equal(torch.cat(expected, 1))


def test_both_are_applied_to_whole_sequences_too():
    model, tokens = toy(), random_tokens()
    bias = torch.linspace(-1, 1, NUM_TOKENS)
    with torch.no_grad():
        assert Adjusted(model, 0.5, bias)(tokens).equal(model(tokens) / 0.5 + bias)


def test_padding_and_native_steps_reach_the_model():
    class Padded(ToyModel):
        supports_left_padding = True

        def prefill(self, prompt, max_new_tokens, num_padding=None, *, native=False):
            self.given = (max_new_tokens, num_padding, native)
            return super().prefill(prompt, max_new_tokens)

    model = Padded(num_tokens=NUM_TOKENS, context_length=40).eval()
    adjusted, prompt, num_padding = Adjusted(model, 0.5), random_tokens(3), torch.tensor([0, 1, 2])
    assert adjusted.supports_left_padding and not Adjusted(toy()).supports_left_padding
    with torch.no_grad():
        logits, kv_cache = adjusted.prefill(prompt, 4, num_padding, native=True)
        assert model.given[0] == 4 and model.given[1] is num_padding and model.given[2] is True
        rows = torch.tensor([2, 0])
        longer, _ = adjusted.decode_step(prompt[rows, 0], adjusted.select_rows(kv_cache, rows))
        whole = torch.cat([prompt[rows], prompt[rows, :1]], 1)
        assert logits.equal(model.prefill(prompt, 4)[0] / 0.5)
        torch.testing.assert_close(longer, model(whole)[:, -1] / 0.5)


def test_the_mode_is_kept_even_where_nothing_is_found():
    model, tokens = toy().train(), random_tokens()
    matching_temperature(model, tokens, 1.0)
    mean_log_probabilities(model, tokens)
    assert model.training
    with pytest.raises(InputError):
        matching_temperature(model, tokens, -0.1)
    assert model.training


def test_a_bias_undoes_a_bias():
    """The estimate finds what differs by a vector alone."""
    model, tokens = toy(), random_tokens()
    bias = torch.linspace(-1, 1, NUM_TOKENS, dtype=torch.float64)
    change = log_probability_change(Adjusted(model, bias=bias), model, tokens)
    torch.testing.assert_close(change - change.mean(), bias - bias.mean(), atol=1e-5, rtol=0)


def test_a_search_shows_each_temperature_and_without_a_label_nothing(phases):
    model, tokens = toy(), random_tokens()
    matching_temperature(model, tokens, 1.0)
    log_probability_change(toy(1), model, tokens)
    assert phases() == {}
    matching_temperature(model, tokens, 1.0, label="match")
    shown = phases()
    assert shown.pop("match") == "11/11"
    assert len(shown) > 1 and set(shown.values()) == {"165/165"}  # positions
    assert next(iter(shown)) == "match, entropy at temperature 1"
    log_probability_change(toy(1), model, tokens, label="bias")
    assert phases() == {"bias": "22/22"}


def test_controls_are_calibrated_on_the_tokens_that_count():
    model, other, tokens = toy(), toy(1), random_tokens()
    loss_mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    loss_mask[:, 5] = True
    temperature = matching_temperature(model, tokens, 1.0, loss_mask=loss_mask)
    measured = prediction_values(Adjusted(model, temperature), tokens, loss_mask=loss_mask)["entropy"].mean()
    assert abs(float(measured) - 1.0) < 1e-3
    with torch.no_grad():
        change = other(tokens[:, :-1]).log_softmax(-1) - model(tokens[:, :-1]).log_softmax(-1)
    found = log_probability_change(other, model, tokens, loss_mask=loss_mask)
    torch.testing.assert_close(found.float(), change[loss_mask[:, 1:]].mean(0), rtol=1e-3, atol=1e-4)
    assert not found.equal(log_probability_change(other, model, tokens))
