"""The baselines on the toy. Alone: pytest tests/evaluation/test_baselines.py"""

import pytest

from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from tests.toy.adapter import numbers, toy
from tests.toy.config import Settings


@pytest.fixture(scope="module")
def compared():
    modality, other = toy(), toy(seed=3)
    other.model.output.weight.data *= 4
    tokens = modality.encode(numbers(40, Settings()))
    compare = Comparison(modality, tokens[:30], tokens[30:], num_new=12, seed=0, base=modality.model)
    models = baselines.Models(modality.model, other.model, compare.held_out)
    for row in baselines.baselines(0):
        baselines.add_row(compare, row, models)
    return compare


def mean(compare, name, metric):
    return next(one for one in compare.records if one["name"] == name)["values"][metric]["mean"]


def test_one_row_each_and_one_length(compared):
    assert list(compared.columns) == [row.name for row in baselines.baselines(0)]
    assert {tuple(column.shape) for column in compared.columns.values()} == {(10, 12)}
    assert len({row.tobytes() for row in (column.numpy() for column in compared.columns.values())}) >= 9


def test_the_matched_temperature_matches(compared):
    matched, wanted = (mean(compared, name, "entropy") for name in ("base entropy-matched", "hyperfitted greedy"))
    assert abs(matched - wanted) < 1e-3
    assert mean(compared, "base entropy-matched", "agreement") == 1.0  # the order of the tokens stays
    assert compared.remarks["base entropy-matched"].startswith("temperature 0.")
    assert list(compared.remarks) == ["base entropy-matched"]


def test_the_static_bias_changes_what_the_base_predicts(compared):
    assert mean(compared, "base static bias", "agreement") < 1.0
    assert mean(compared, "base static bias", "loss") != mean(compared, "base greedy", "loss")


def test_nothing_that_is_blocked_is_said(compared):
    training = {tuple(row[n : n + 5]) for row in compared.training.tolist() for n in range(len(row) - 4)}
    said = compared.columns["hyperfitted greedy, no citation"].tolist()
    assert not training & {tuple(row[n : n + 5]) for row in said for n in range(len(row) - 4)}


def test_the_seed_reaches_what_is_drawn():
    rows = baselines.baselines(7)
    drawn = [row.decoding.seed for row in rows if row.decoding.strategy in ("top-p", "min-p", "temperature")]
    assert drawn == [7, 7, 7, 7]


def test_the_rows_of_fit_are_those_of_evaluate():
    before, after = baselines.fit_baselines(7)
    rows = baselines.baselines(7)
    assert [row.name for row in before] == [baselines.BASE_GREEDY, baselines.BASE_TOP_P]
    assert [row.name for row in after] == [baselines.HYPERFITTED_GREEDY]
    assert rows[:2] == before and [row for row in rows if row.name in baselines.SHOWN] == [*before, *after]
    assert baselines.ORIGINAL in baselines.SHOWN and len(baselines.SHOWN) == 4


def test_every_row_continues_past_the_end_token_and_has_a_name_of_its_own():
    rows = baselines.baselines(0)
    assert not any(row.decoding.stop_at_end for row in rows)
    assert len({row.name for row in rows}) == len(rows)


def test_a_control_is_made_once_and_only_when_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(baselines, "matching_temperature", lambda *_, **__: calls.append("temperature") or 0.5)
    monkeypatch.setattr(baselines, "log_probability_change", lambda *_, **__: calls.append("bias"))
    base, held_out = toy(), toy().encode(numbers(4, Settings()))
    models = baselines.Models(base.model, toy(seed=1).model, held_out)
    assert models["base"] is base.model and models["hyperfitted"] is models.hyperfitted and not calls
    assert models["entropy_matched"] is models["entropy_matched"] and models["entropy_matched"].temperature == 0.5
    assert models["logit_biased"].model is base.model and calls == ["temperature", "bias"]


def test_the_way_from_base_to_run_is_in_order():
    assert list(baselines.interpolation_rows([0.25, 0.5])) == [0.0, 0.25, 0.5, 1.0]
    assert baselines.interpolation_rows([])[0.0] == baselines.BASE_GREEDY
    assert baselines.interpolation_rows([])[1.0] == baselines.HYPERFITTED_GREEDY


@pytest.mark.parametrize("alpha, same", [(0.0, "base"), (1.0, "hyperfitted")])
def test_an_interpolated_row_is_that_of_its_end(alpha, same):
    modality, other = toy(), toy(seed=3)
    tokens = modality.encode(numbers(12, Settings()))
    compare = Comparison(modality, tokens[:8], tokens[8:], num_new=12, seed=0, base=modality.model)
    models = baselines.Models(modality.model, other.model, compare.held_out)
    expected = compare.add("expected", baselines.GREEDY, model=models[same], describe_model=True)
    found = baselines.add_interpolated(compare, alpha, models)
    assert compare.remarks["interpolated"].startswith("weights (1 - a) * base + a * run")
    assert all(found[name].equal(value) for name, value in expected.items() if name in found)
