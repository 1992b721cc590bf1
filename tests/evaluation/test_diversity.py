"""Diversity against hand-worked examples and plain Python that shares no code. Alone: pytest
tests/evaluation/test_diversity.py"""

import math
import random

import pytest
import torch

from hypergen.decoding.end_tokens import trim
from hypergen.errors import InputError
from hypergen.evaluation.diversity import distinct, mattr_values, repeated_tokens, repetition_values, ttr_values


def row(*ids):
    return torch.tensor(ids, dtype=torch.long)


def mean(values):
    """Of the rows that have the metric."""
    return float(values.nanmean())


def test_trim_cuts_before_the_first_end_token():
    tokens = torch.tensor([[1, 2, 9, 3, 9], [9, 9, 9, 9, 9], [1, 2, 3, 4, 5]])
    assert [kept.tolist() for kept in trim(tokens, [9])] == [[1, 2], [], [1, 2, 3, 4, 5]]
    assert [kept.tolist() for kept in trim(tokens, [])] == tokens.tolist()
    assert [kept.tolist() for kept in trim(tokens[:2, :0], [9])] == [[], []]


def test_ttr_by_hand():
    completions = [row(1, 1, 2, 3), row(5, 5, 5, 5), row()]
    assert ttr_values(completions)[:2].tolist() == [0.75, 0.25]
    assert ttr_values(completions)[2].isnan()
    assert mean(ttr_values(completions)) == 0.5
    assert ttr_values([row(7, 8, 1, 1)], window=2).tolist() == [0.5]
    assert mean(ttr_values(torch.tensor([[1, 2], [3, 3]]))) == 0.75


def test_repetition_by_hand():
    completions = [row(1, 2, 1, 2, 1), row(1, 2, 3), row(4)]
    values = repetition_values(completions, 2)
    assert values[:2].tolist() == [0.5, 0.0] and values[2].isnan()
    assert mean(values) == 0.25
    assert repetition_values(completions, 6).isnan().all()
    assert repetition_values([row(1, 2, 1, 2)], 2).tolist() == [
        pytest.approx(1 / 3)
    ]  # the last bigram is the repeated one


def test_distinct_by_hand():
    assert distinct([row(1, 2, 3), row(1, 2), row(9)], 2) == pytest.approx(2 / 3)
    assert distinct([row(1, 1), row(1)], 1) == pytest.approx(1 / 3)
    assert math.isnan(distinct([row(1), row()], 2))


def test_mattr_by_hand():
    assert mattr_values([row(1, 1, 2, 3)], window=2).tolist() == [pytest.approx((0.5 + 1 + 1) / 3)]
    assert mattr_values([row(1, 1, 2)], window=50).tolist() == [pytest.approx(2 / 3)]
    assert mattr_values([row()]).isnan().all()


@pytest.mark.parametrize("seed", range(50))
def test_against_sets(seed):
    draw = random.Random(seed)
    rows = [[draw.randrange(draw.choice([2, 30])) for _ in range(draw.randrange(1, 150))] for _ in range(5)]
    completions = [torch.tensor(ids) for ids in rows]
    window, n = draw.randrange(1, 120), draw.randrange(1, 6)
    tails = [ids[-window:] for ids in rows]
    assert ttr_values(completions, window).tolist() == [pytest.approx(len(set(ids)) / len(ids)) for ids in tails]
    grams = [[tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)] for ids in rows]
    repeated = [1 - len(set(row)) / len(row) if row else math.nan for row in grams]
    assert repetition_values(completions, n).tolist() == [pytest.approx(value, nan_ok=True) for value in repeated]
    pool = [gram for row in grams for gram in row]
    if pool:
        assert distinct(completions, n) == pytest.approx(len(set(pool)) / len(pool))
    moving = []
    for ids in rows:
        width = min(window, len(ids))
        ratios = [len(set(ids[i : i + width])) / width for i in range(len(ids) - width + 1)]
        moving.append(pytest.approx(sum(ratios) / len(ratios)))
    assert mattr_values(completions, window).tolist() == moving


def test_ranges():
    completions = torch.randint(20, (4, 100))
    rows = [ttr_values(completions), mattr_values(completions), *(repetition_values(completions, n) for n in (2, 3, 4))]
    assert all(values.shape == (4,) and bool(((values >= 0) & (values <= 1)).all()) for values in rows)
    assert all(0 <= distinct(completions, n) <= 1 for n in (1, 2, 3, 4))


def test_refusals_on_completions():
    for measure in (ttr_values, mattr_values, lambda none: repetition_values(none, 2), lambda none: distinct(none, 1)):
        with pytest.raises(InputError, match="0 completions"):
            measure([])
    with pytest.raises(InputError, match=r"shape \(\)"):
        ttr_values(row(1, 2))
    with pytest.raises(InputError, match="n-gram length 0: must be 1 or more"):
        repetition_values([row(1)], 0)
    with pytest.raises(InputError, match="ttr window 0"):
        ttr_values([row(1)], 0)
    with pytest.raises(InputError, match="mattr window 0"):
        mattr_values([row(1)], 0)


def test_tokens_of_repeated_ngrams_are_marked_by_hand():
    marks = repeated_tokens(row(1, 2, 3, 4, 9, 1, 2, 3, 4, 8)).tolist()
    assert marks == [False] * 5 + [True] * 4 + [False]
    assert repeated_tokens(row(1, 1, 1, 1, 1, 1)).tolist() == [False, True, True, True, True, True]
    assert repeated_tokens(row(1, 2, 1, 2), n=2).tolist() == [False, False, True, True]
    assert repeated_tokens(row(1, 2, 3)).tolist() == [False] * 3 and repeated_tokens(row()).tolist() == []


def test_marked_tokens_agree_with_rep_n():
    for seed in range(20):
        ids = torch.randint(3, (30,), generator=torch.Generator().manual_seed(seed))
        assert bool(repeated_tokens(ids).any()) == (repetition_values([ids], 4)[0] > 0)
