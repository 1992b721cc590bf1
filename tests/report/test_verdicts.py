"""What the intervals say, in sentences. Alone: pytest tests/report/test_verdicts.py"""

import pytest

from hypergen.report.verdicts import judged, verdicts
from tests.report.records import COLUMNS, CORE, judged_records, record


def test_lower_higher_or_not_shown():
    lines = verdicts(judged_records("rep_4", ours=(0.1, 0.2), greedy=(0.5, 0.7), top_p=(0.15, 0.3)), COLUMNS)
    assert lines == [
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base greedy 0.600 [0.500, 0.700]: "
        "lower, and the 95 % intervals do not overlap.",
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base top-p 0.225 [0.150, 0.300]: "
        "the 95 % intervals overlap, so a difference is not shown.",
    ]
    (line,) = verdicts(judged_records("rep_4", ours=(0.5, 0.7), greedy=(0.1, 0.2)), COLUMNS)
    assert line.endswith("higher, and the 95 % intervals do not overlap.")


def test_intervals_that_touch_overlap():
    (line,) = verdicts(judged_records("rep_4", ours=(0.1, 0.2), greedy=(0.2, 0.3)), COLUMNS)
    assert line.endswith("the 95 % intervals overlap, so a difference is not shown.")


def test_an_adapters_metric_goes_before_the_cores():
    both = judged_records("rows_copied", ours=(0.0, 0.1), greedy=(0.4, 0.5))
    for one in both:
        one["values"]["rep_4"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    (line,) = verdicts(both, COLUMNS)
    assert line.startswith("rows copied: ") and "lower" in line
    (line,) = verdicts(both, CORE)
    assert line.startswith("rep-4: ")


def test_the_metric_of_a_verdict_is_one_that_every_record_has():
    both = [record("x", rows_copied=0.1, rep_4=0.2), record("y", rep_4=0.3)]
    assert judged(both, COLUMNS) == "rep_4"
    assert judged(both[:1], COLUMNS) == "rows_copied"
    assert judged([*both, record("z", ttr=0.3)], COLUMNS) is None


@pytest.mark.parametrize(
    "records",
    [
        [],
        judged_records("rep_4", ours=(0, 1)),
        judged_records("rep_4", greedy=(0, 1), top_p=(0, 1)),
        judged_records("ttr", ours=(0, 1), greedy=(0, 1)),
        [{"name": name, "values": {"rep_4": {"mean": 0.1}}} for name in ("hyperfitted greedy", "base greedy")],
    ],
)
def test_nothing_is_said_without_both_intervals(records):
    assert verdicts(records, COLUMNS) == []
