"""Cells of a table of records. Alone: pytest tests/report/test_table.py"""

import math

import pytest

from hypergen.report.table import cells, interval_text, mean_text
from tests.report.records import COLUMNS, CORE, RECORDS, record


def test_a_metric_has_its_own_number_of_decimals():
    one = {
        "name": "x",
        "values": {"self_bleu": {"mean": 20.16}, "rank_shift": {"mean": 12.3456, "low": 9.87, "high": 15.0}},
    }
    assert (mean_text(one, "self_bleu", COLUMNS), mean_text(one, "rank_shift", COLUMNS)) == ("20.2", "12.3")
    assert mean_text(one, "self_bleu", CORE) == "20.160"
    assert interval_text(one, "rank_shift", COLUMNS) == "[9.9, 15.0]"
    assert mean_text(record("x", unknown=0.5), "unknown", COLUMNS) == "0.500"
    assert mean_text(record("x", run_longest=4.0), "run_longest", COLUMNS) == "4"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.500"),
        (-0.0001, "0.000"),
        (2000, "2,000"),
        (7, "7"),
        (math.inf, "inf"),
        (12345.6, "12,346"),
        (1e30, "1e+30"),
        (math.nan, "-"),
    ],
)
def test_how_numbers_are_shown(value, shown):
    assert cells([record("x", thing=value)], CORE)[1] == ["x", shown]


def test_a_mean_of_counts_keeps_its_fraction():
    assert mean_text(record("x", overlap_max=12.5), "overlap_max", CORE) == "12.500"
    assert mean_text(record("x", overlap_max=12.0), "overlap_max", CORE) == "12"


def test_an_interval_needs_both_ends_and_a_mean():
    values = [{"mean": 1.0, "low": 0.5}, {"mean": 1.0, "low": math.nan, "high": 2.0}, {"low": 0.5, "high": 2.0}, None]
    table = cells([{"name": "x", "values": dict(zip("abcd", values, strict=True))}], CORE)
    assert table[1] == ["x", "1.000", "1.000", "-", "-"]


def test_a_table_with_intervals_nan_and_missing_values():
    heads, first, second = cells(RECORDS, CORE)
    assert heads[1:] == ["TTR", "overlap mean", "overlap max", "overlap > 10", "rep-4", "held-out loss"]
    assert first == ["base greedy", "0.233 [0.200, 0.274]", "4.000", "14", "0.000", "-", "3.200"]
    assert second == ["hyperfitted greedy", "-", "5.250", "-", "-", "0.500", "-"]


def test_columns_can_be_chosen():
    table = cells([record("x\x1b[31m", loss=1.0, my_new_measure=2.0)], CORE, ["my_new_measure", "absent"])
    assert table == [["model and decoding", "my new measure", "absent"], ["x[31m", "2.000", "-"]]


def test_heads_can_say_which_way_is_better():
    heads = cells([record("x", rep_4=0.1, entropy=1.0)], CORE, with_directions=True)[0]
    assert heads == ["model and decoding", "rep-4\nlower is better", "entropy"]
