"""The measures against hand-worked examples and plain Python that shares no code. Alone: pytest
tests/test_measures.py"""

import math
import random

import pytest
import torch

from hypergen.errors import InputError
from hypergen.measures import (
    bootstrap_interval,
    distinct,
    diversity,
    mattr,
    mattr_values,
    perplexity,
    prediction_values,
    predictions,
    repetition,
    repetition_values,
    trim,
    ttr,
    ttr_values,
)
from tests.toy.modality import numbers, toy


def row(*ids):
    return torch.tensor(ids, dtype=torch.long)


def test_trim_cuts_before_the_first_end_token():
    tokens = torch.tensor([[1, 2, 9, 3, 9], [9, 9, 9, 9, 9], [1, 2, 3, 4, 5]])
    assert [kept.tolist() for kept in trim(tokens, 9)] == [[1, 2], [], [1, 2, 3, 4, 5]]
    assert [kept.tolist() for kept in trim(tokens, None)] == tokens.tolist()
    assert [kept.tolist() for kept in trim(tokens[:2, :0], 9)] == [[], []]


def test_ttr_by_hand():
    completions = [row(1, 1, 2, 3), row(5, 5, 5, 5), row()]
    assert ttr_values(completions)[:2].tolist() == [0.75, 0.25]
    assert ttr_values(completions)[2].isnan()
    assert ttr(completions) == 0.5
    assert ttr_values([row(7, 8, 1, 1)], window=2).tolist() == [0.5]
    assert ttr(torch.tensor([[1, 2], [3, 3]])) == 0.75


def test_repetition_by_hand():
    completions = [row(1, 2, 1, 2, 1), row(1, 2, 3), row(4)]
    values = repetition_values(completions, 2)
    assert values[:2].tolist() == [0.5, 0.0] and values[2].isnan()
    assert repetition(completions, 2) == 0.25
    assert math.isnan(repetition(completions, 6))
    assert repetition([row(1, 2, 1, 2)], 2) == pytest.approx(1 / 3)  # the last bigram is the repeated one


def test_distinct_by_hand():
    assert distinct([row(1, 2, 3), row(1, 2), row(9)], 2) == pytest.approx(2 / 3)
    assert distinct([row(1, 1), row(1)], 1) == pytest.approx(1 / 3)
    assert math.isnan(distinct([row(1), row()], 2))


def test_mattr_by_hand():
    assert mattr_values([row(1, 1, 2, 3)], window=2).tolist() == [pytest.approx((0.5 + 1 + 1) / 3)]
    assert mattr([row(1, 1, 2)], window=50) == pytest.approx(2 / 3)
    assert math.isnan(mattr([row()]))


@pytest.mark.parametrize("seed", range(50))
def test_against_sets(seed):
    draw = random.Random(seed)
    rows = [[draw.randrange(draw.choice([2, 30])) for _ in range(draw.randrange(1, 150))] for _ in range(5)]
    completions = [torch.tensor(ids) for ids in rows]
    window, n = draw.randrange(1, 120), draw.randrange(1, 6)
    tails = [ids[-window:] for ids in rows]
    assert ttr_values(completions, window).tolist() == [pytest.approx(len(set(ids)) / len(ids)) for ids in tails]
    grams = [[tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)] for ids in rows]
    some = [1 - len(set(row)) / len(row) for row in grams if row]
    assert repetition(completions, n) == pytest.approx(sum(some) / len(some) if some else math.nan, nan_ok=True)
    pool = [gram for row in grams for gram in row]
    if pool:
        assert distinct(completions, n) == pytest.approx(len(set(pool)) / len(pool))
    moving = []
    for ids in rows:
        width = min(window, len(ids))
        ratios = [len(set(ids[i : i + width])) / width for i in range(len(ids) - width + 1)]
        moving.append(pytest.approx(sum(ratios) / len(ratios)))
    assert mattr_values(completions, window).tolist() == moving


def test_diversity_names_and_ranges():
    numbers = diversity(torch.randint(20, (4, 100)))
    assert list(numbers) == ["ttr", "mattr", "rep_2", "rep_3", "rep_4", *(f"distinct_{n}" for n in (1, 2, 3, 4))]
    assert all(0 <= value <= 1 for value in numbers.values())


def test_refusals_on_completions():
    for measure in (ttr, mattr, diversity):
        with pytest.raises(InputError, match="0 completions"):
            measure([])
    with pytest.raises(InputError, match=r"shape \(\)"):
        ttr(row(1, 2))
    with pytest.raises(InputError, match="n-gram length 0: must be 1 or more"):
        repetition([row(1)], 0)
    with pytest.raises(InputError, match="ttr window 0"):
        ttr([row(1)], 0)


class Fixed(torch.nn.Module):
    """A model whose logits after each id are the rows of a table."""

    def __init__(self, logits, context_length=100):
        super().__init__()
        self.table, self.context_length = torch.nn.Embedding.from_pretrained(torch.tensor(logits)), context_length
        self.longest = 0

    def hidden(self, tokens):
        return self.table(tokens)

    def head(self, hidden):
        self.longest = max(self.longest, hidden.shape[0])
        assert hidden.ndim == 2
        return hidden


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


def test_refusals_on_predictions():
    model = Fixed([[0.0]], context_length=5)
    for shape in [(0, 4), (2, 1), (2, 6), (4,)]:
        with pytest.raises(InputError, match=r"T from 2 to the model's context of 5"):
            predictions(model, torch.zeros(shape, dtype=torch.long))


def test_bootstrap_interval():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert low < float(values.mean()) < high
    error = float(values.std()) / 20
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)  # what normal theory expects
    narrow = bootstrap_interval(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval([2.0, math.nan], seed=0) == (2.0, 2.0)


def test_refusals_on_intervals():
    with pytest.raises(InputError, match="interval of 1 values"):
        bootstrap_interval([math.nan], seed=0)
    with pytest.raises(InputError, match=r"level 1\.0: must be between 0 and 1"):
        bootstrap_interval([1.0], seed=0, level=1.0)
