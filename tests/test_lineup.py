"""The line-up on the toy. Alone: pytest tests/test_lineup.py"""

import pytest

from hypergen import lineup
from hypergen.comparison import Comparison
from tests.toy.config import Settings
from tests.toy.modality import numbers, toy


@pytest.fixture(scope="module")
def compared():
    modality, other = toy(), toy(seed=3)
    other.model.output.weight.data *= 4
    tokens = modality.encode(numbers(40, Settings()))
    compare = Comparison(modality, tokens[:30], tokens[30:], modality.prompts(tokens[30:]), 12, 0)
    models = lineup.Models(modality.model, other.model, compare.held_out)
    for row in lineup.rows(0):
        lineup.add(compare, row, models)
    return compare


def mean(compare, name, measure):
    return next(one for one in compare.records if one["name"] == name)["values"][measure]["mean"]


def test_one_row_each_and_one_length(compared):
    assert list(compared.columns) == [row.name for row in lineup.rows(0)]
    assert {tuple(column.shape) for column in compared.columns.values()} == {(10, 12)}
    assert len({row.tobytes() for row in (column.numpy() for column in compared.columns.values())}) >= 9


def test_the_matched_temperature_matches(compared):
    matched, wanted = (mean(compared, name, "entropy") for name in ("base entropy-matched", "hyperfitted greedy"))
    assert abs(matched - wanted) < 1e-3
    assert mean(compared, "base entropy-matched", "agreement") == 1.0  # the order of the tokens stays
    assert compared.remarks["base entropy-matched"].startswith("temperature 0.")


def test_the_static_bias_changes_what_the_base_predicts(compared):
    assert mean(compared, "base static bias", "agreement") < 1.0
    assert mean(compared, "base static bias", "loss") != mean(compared, "base greedy", "loss")


def test_nothing_that_is_blocked_is_said(compared):
    training = {tuple(row[n : n + 5]) for row in compared.training.tolist() for n in range(len(row) - 4)}
    said = compared.columns["hyperfitted greedy, no citation"].tolist()
    assert not training & {tuple(row[n : n + 5]) for row in said for n in range(len(row) - 4)}


def test_the_seed_reaches_what_is_drawn():
    drawn = [row.decoding.seed for row in lineup.rows(7) if row.decoding.strategy in ("top-p", "min-p", "temperature")]
    assert drawn == [7, 7, 7, 7]
