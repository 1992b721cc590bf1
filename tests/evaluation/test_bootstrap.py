"""Intervals against normal theory, and what a record holds. Alone: pytest tests/evaluation/test_bootstrap.py"""

import math

import pytest
import torch

from hypergen.errors import InputError
from hypergen.evaluation.bootstrap import bootstrap_interval, summaries, summary


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


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    covered = [low <= 0 <= high for low, high in (bootstrap_interval(row, seed=0) for row in draws)]
    assert 0.88 <= sum(covered) / 200 <= 0.99


def test_refusals_on_intervals():
    with pytest.raises(InputError, match="interval of 1 values"):
        bootstrap_interval([math.nan], seed=0)
    with pytest.raises(InputError, match=r"level 1\.0: must be between 0 and 1"):
        bootstrap_interval([1.0], seed=0, level=1.0)
    with pytest.raises(InputError, match="resamples 0: must be 1 or more"):
        bootstrap_interval([1.0], seed=0, resamples=0)


def test_a_summary_has_an_interval_where_there_is_one():
    values = torch.tensor([1.0, 2.0, math.nan, 6.0])
    low, high = bootstrap_interval(values, seed=3)
    assert summary(values, 3) == {"mean": 3.0, "low": low, "high": high}
    assert summary(torch.tensor(7), 3) == {"mean": 7.0}
    assert list(summary(torch.tensor([math.nan, math.nan]), 3)) == ["mean"]


def test_perplexity_is_that_of_mean_and_ends():
    found = summaries({"loss": torch.tensor([0.5, 1.0, 2.5]), "ttr": torch.tensor([0.1, 0.2, 0.3])}, 0)
    assert list(found) == ["loss", "ttr", "perplexity"]
    assert found["perplexity"] == {part: math.exp(value) for part, value in found["loss"].items()}
    assert "perplexity" not in summaries({"ttr": torch.tensor(1.0)}, 0)
