"""Columns and cells of a table of records. Alone: pytest tests/test_report_table.py"""

import pytest

from hypergen.report_table import DETAILS, DIVERSITY, MEASURES, brief, cells, columns_of, interval_text, mean_text


def record(name, **values):
    return {"name": name, "values": {key: {"mean": value} for key, value in values.items()}}


@pytest.mark.parametrize("name", DIVERSITY)
def test_every_measure_of_diversity_needs_the_overlap(name):
    with pytest.raises(ValueError, match=f"have {name} but no overlap_mean"):
        cells([record("x", **{name: 0.5})])
    assert columns_of([record("x", **{name: 0.5}, overlap_mean=3.0, rep_4=0.1)], [name, "rep_4"]) == [
        name,
        "overlap_mean",
        "rep_4",
    ]


def test_overlap_stands_beside_the_first_measure_of_diversity():
    shown = columns_of([record("x", self_bleu=20.0, ttr=0.5, mattr=0.6, overlap_mean=3.0, overlap_max=9.0)])
    assert shown == ["ttr", "overlap_mean", "overlap_max", "mattr", "self_bleu"]


def test_a_measure_has_its_own_number_of_decimals():
    one = {
        "name": "x",
        "values": {"kid": {"mean": 0.03149}, "rank_shift": {"mean": 12.3456, "low": 9.87, "high": 15.0}},
    }
    assert (mean_text(one, "kid"), mean_text(one, "rank_shift")) == ("0.031", "12.3")
    assert interval_text(one, "rank_shift") == "[9.9, 15.0]"
    assert mean_text(record("x", unknown=0.5), "unknown") == "0.500"
    assert mean_text(record("x", run_longest=4.0), "run_longest") == "4"


def test_every_name_that_is_treated_apart_is_a_measure():
    assert set(DIVERSITY) | DETAILS <= MEASURES.keys()
    assert brief([record("x", rep_2=0.1, rep_4=0.1, override=0.4, override_deep=0.1)]) == ["rep_4", "override"]


def test_heads_are_distinct_and_meanings_are_one_line():
    assert len({measure.head for measure in MEASURES.values()}) == len(MEASURES)
    assert all(measure.meaning and "\n" not in measure.meaning for measure in MEASURES.values())
