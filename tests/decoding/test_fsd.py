"""FSD against a slow version of its description. Alone: pytest tests/decoding/test_fsd.py"""

from collections import Counter

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.fsd import FsdParameters, choose, penalty
from hypergen.decoding.loop import generate
from hypergen.errors import InputError
from hypergen.evaluation.diversity import repetition_values
from tests.toy.model import ToyModel


def slow_penalty(context, candidate, parameters):
    """One context (a list) and one candidate, with counters of n-grams."""
    score, remaining = 0.0, 1.0
    for order in range(min(parameters.order, len(context)), 0, -1):
        known = tuple(context[len(context) - order + 1 :])
        followers = Counter(
            context[place + order - 1]
            for place in range(len(context) - order + 1)
            if tuple(context[place : place + order - 1]) == known
        )
        if candidate not in followers:
            continue
        if order == 1:
            return score + remaining * followers[candidate] / len(context)
        score += remaining * parameters.smoothing * followers[candidate] / (sum(followers.values()) + 1)
        remaining *= 1 - parameters.smoothing
    return score


def slow_choice(logits, context, parameters):
    probabilities = logits.double().softmax(0)
    candidates = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[: parameters.top_k]
    return max(
        candidates,
        key=lambda token: (
            (1 - parameters.alpha) * float(probabilities[token])
            - parameters.alpha * slow_penalty(context, token, parameters)
        ),
    )


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 3, 40])
def test_penalty_equals_counted_ngrams(order, length):
    draw = torch.Generator().manual_seed(length)
    context = torch.randint(4, (16, length), generator=draw)
    candidates = torch.arange(6).repeat(16, 1)
    parameters = FsdParameters(order=order, smoothing=0.8)
    slow = [[slow_penalty(row, token, parameters) for token in range(6)] for row in context.tolist()]
    torch.testing.assert_close(penalty(context, candidates, parameters).double(), torch.tensor(slow).double())


@pytest.mark.parametrize(
    "parameters", [FsdParameters(), FsdParameters(alpha=0.3, top_k=5), FsdParameters(alpha=1.0, top_k=20, order=2)]
)
def test_choice_equals_the_slow_one(parameters):
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(100, 12, generator=draw)
    context = torch.randint(12, (100, 30), generator=draw)
    expected = [slow_choice(row, ids.tolist(), parameters) for row, ids in zip(logits, context, strict=True)]
    assert choose(logits, context, parameters).tolist() == expected


def test_a_hand_worked_step():
    """After 1 2 1 2 1, greedy would take 2, which followed 1 twice: .35 x .9 - .65 x penalty is below .35 x .1."""
    context = torch.tensor([[1, 2, 1, 2, 1]])
    logits = torch.tensor([[-9.0, -9.0, 0.9, 0.1]]).clamp(min=1e-9).log()
    assert choose(logits, context, FsdParameters(top_k=2)).tolist() == [3]
    assert choose(logits, context, FsdParameters(top_k=2, alpha=0.0)).tolist() == [2]
    # trigram (2, 1) -> 2 once of 1: .9 x 1/2; bigram 1 -> 2 twice of 2: .1 x .9 x 2/3; token 2 of 5: .01 x 2/5
    assert penalty(context, torch.tensor([[2]]), FsdParameters()).item() == pytest.approx(0.45 + 0.06 + 0.004)


def test_what_is_forbidden_is_never_taken():
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert choose(logits, torch.zeros(1, 9, dtype=torch.long), FsdParameters(alpha=1.0)).tolist() == [0]


def test_through_the_decoding_loop():
    model = ToyModel(num_tokens=18, context_length=60).eval()
    prompts = torch.randint(18, (6, 4), generator=torch.Generator().manual_seed(0))
    greedy = generate(model, prompts, 50)
    assert generate(model, prompts, 50, DecodingConfig(strategy="fsd", fsd_alpha=0.0)).equal(greedy)
    varied = generate(model, prompts, 50, DecodingConfig(strategy="fsd", fsd_alpha=1.0, top_k=6))
    assert repetition_values(varied, 4).nanmean() < repetition_values(greedy, 4).nanmean()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strategy": "fsd", "fsd_alpha": 1.5}, "--fsd-alpha 1.5: must be between 0 and 1"),
        ({"fsd_alpha": 0.5}, "--fsd-alpha: only --strategy fsd reads it; this is greedy"),
        ({"strategy": "fsd", "num_beams": 2}, "--num-beams: only --strategy beam reads it; this is fsd"),
        ({"strategy": "beam", "num_beams": 0}, "--num-beams 0: must be a whole number, 1 or more"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        DecodingConfig(**options)
