"""Loss, entropy and sharpness by hand and against whole logits. Alone: pytest tests/evaluation/test_predictions.py"""

import math

import pytest
import torch

from hypergen.errors import InputError
from hypergen.evaluation import predictions as module
from hypergen.evaluation.predictions import per_position, perplexity, prediction_values, predictions
from tests.evaluation.fixed import Fixed
from tests.toy.adapter import numbers, toy


@pytest.fixture(params=["native", "torch"], autouse=True)
def way(request, monkeypatch):
    """Each test runs with the native measures, where there are any, and with torch's."""
    if request.param == "torch":
        monkeypatch.setattr(module, "sharpness_native", lambda *arguments: None)


def test_predictions_by_hand():
    """After 0: 1/2, 1/4, 1/4; after 1: certain of 2, with -inf elsewhere."""
    inf = math.inf
    model = Fixed([[math.log(0.5), math.log(0.25), math.log(0.25)], [-inf, -inf, 0.0], [0.0, 0.0, 0.0]])
    numbers = predictions(model, torch.tensor([[0, 1, 2]]))
    assert numbers["loss"] == pytest.approx(-math.log(0.25) / 2)
    assert numbers["perplexity"] == pytest.approx(2.0)
    assert numbers["entropy"] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(4)) / 2)
    assert numbers["top1_probability"] == pytest.approx(0.75)
    assert numbers["top3_probability"] == numbers["top5_probability"] == pytest.approx(1.0)
    impossible = predictions(model, torch.tensor([[1, 0]]))
    assert impossible["loss"] == impossible["perplexity"] == inf
    assert impossible["entropy"] == 0


def test_perplexity_by_hand():
    assert perplexity(math.log(13.1)) == pytest.approx(13.1)
    assert (perplexity(0.0), perplexity(800.0)) == (1.0, math.inf)


@pytest.mark.parametrize(("batch_size", "chunk"), [(8, 1024), (3, 7), (1, 1), (100, 33)])
def test_predictions_against_whole_logits(batch_size, chunk):
    modality = toy(seed=1)
    tokens = modality.encode(numbers(10, modality.settings))
    calls = []
    numbers_ = prediction_values(
        modality.model, tokens, batch_size=batch_size, chunk=chunk, advance=lambda n, tokens: calls.append((n, tokens))
    )
    with torch.no_grad():
        logits = modality.model(tokens)[:, :-1].double()
    chosen = logits.softmax(-1)
    loss = -chosen.gather(2, tokens[:, 1:, None]).log().squeeze(2).mean(1)
    ranked = chosen.sort(descending=True).values.cumsum(-1).mean(1)
    expected = {
        "loss": loss,
        "entropy": -(chosen * chosen.log()).sum(-1).mean(1),
        "top1_probability": ranked[:, 0],
        "top3_probability": ranked[:, 2],
        "top5_probability": ranked[:, 4],
    }
    assert list(numbers_) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(numbers_[name], values, rtol=1e-5, atol=1e-6)
    assert sum(count for count, _ in calls) == 10 and sum(seen for _, seen in calls) == tokens.numel()
    means = predictions(modality.model, tokens)
    assert means["perplexity"] == pytest.approx(math.exp(float(loss.mean())), rel=1e-5)


def test_logits_exist_for_one_chunk_only_and_the_mode_is_kept():
    model = Fixed(torch.randn(6, 6).tolist())
    model.train()
    prediction_values(model, torch.randint(6, (9, 20)), batch_size=4, chunk=16)
    assert model.longest == 16
    assert model.training


def test_the_mode_is_kept_where_a_measurement_fails():
    model = Fixed(torch.randn(6, 6).tolist()).train()

    def fail(logits, ids):
        assert not model.training
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        per_position(model, torch.randint(6, (2, 5)), fail)
    assert model.training


def test_a_measure_gets_the_logits_after_each_token_and_the_ids_beside_them():
    model = Fixed([[0.0, 1.0], [2.0, 3.0]])
    tokens, ids = torch.tensor([[0, 1, 0], [1, 1, 0]]), torch.tensor([[7, 8], [9, 10]])

    def copy(logits, ids):
        return {"first": logits[:, 0], "ids": ids}

    found = per_position(model, tokens, copy, ids=ids, batch_size=1, chunk=1)
    assert found["first"].tolist() == [[0.0, 2.0], [2.0, 2.0]] and found["ids"].equal(ids)
    assert per_position(model, tokens, copy)["ids"].equal(tokens[:, 1:])


def test_refusals_on_predictions():
    model = Fixed([[0.0]], context_length=5)
    for shape in [(0, 4), (2, 1), (2, 6), (4,)]:
        with pytest.raises(InputError, match=r"T from 2 to the model's context of 5"):
            predictions(model, torch.zeros(shape, dtype=torch.long))


def test_masked_values_are_those_of_the_tokens_that_count():
    modality = toy(seed=1)
    tokens = modality.encode(numbers(10, modality.settings))
    loss_mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    loss_mask[:, 5] = True
    found = prediction_values(modality.model, tokens, loss_mask=loss_mask, batch_size=3)
    with torch.no_grad():
        losses = -modality.model(tokens)[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    assert found["loss"].mean().item() == pytest.approx(losses[loss_mask[:, 1:]].mean().item(), rel=1e-5)
    assert found["loss"].shape == (10,)
