"""What the intervals say, and the curves of a log. Alone: pytest tests/test_verdicts.py"""

import pytest

from hypergen.report import curves, page, verdicts


def rows(measure, **intervals):
    names = {"ours": "hyperfitted greedy", "greedy": "base greedy", "top_p": "base top-p"}
    return [
        {"name": names[key], "values": {measure: {"mean": (low + high) / 2, "low": low, "high": high}}}
        for key, (low, high) in intervals.items()
    ]


def test_lower_higher_or_not_shown():
    lines = verdicts(rows("rep_4", ours=(0.1, 0.2), greedy=(0.5, 0.7), top_p=(0.15, 0.3)))
    assert lines == [
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base greedy 0.600 [0.500, 0.700]: "
        "lower, and the 95 % intervals do not overlap.",
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base top-p 0.225 [0.150, 0.300]: "
        "the 95 % intervals overlap, so a difference is not shown.",
    ]
    (line,) = verdicts(rows("rep_4", ours=(0.5, 0.7), greedy=(0.1, 0.2)))
    assert line.endswith("higher, and the 95 % intervals do not overlap.")


def test_intervals_that_touch_overlap():
    (line,) = verdicts(rows("rep_4", ours=(0.1, 0.2), greedy=(0.2, 0.3)))
    assert "a difference is not shown" in line


def test_pictures_are_judged_by_their_rows():
    both = rows("rows_copied", ours=(0.0, 0.1), greedy=(0.4, 0.5))
    for record in both:
        record["values"]["rep_4"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    (line,) = verdicts(both)
    assert line.startswith("rows copied: ") and "lower" in line
    assert line in page("a", both, {}, {}, None).replace("&amp;", "&")


@pytest.mark.parametrize(
    "records",
    [
        [],
        rows("rep_4", ours=(0, 1)),
        rows("rep_4", greedy=(0, 1), top_p=(0, 1)),
        rows("ttr", ours=(0, 1), greedy=(0, 1)),
        [{"name": name, "values": {"rep_4": {"mean": 0.1}}} for name in ("hyperfitted greedy", "base greedy")],
    ],
)
def test_nothing_is_said_without_both_intervals(records):
    assert verdicts(records) == []


def test_curves_are_those_that_were_logged():
    log = [{"epoch": 0, "ttr": 0.2}, {"epoch": 1, "loss": 3.0, "ttr": 0.4}, {"epoch": 2, "loss": 2.0}]
    assert curves(log) == {"training loss": [(1, 3.0), (2, 2.0)], "TTR": [(0, 0.2), (1, 0.4)]}
    assert curves([]) == {}
