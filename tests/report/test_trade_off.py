"""Diversity against quotation as SVG. Alone: pytest tests/report/test_trade_off.py"""

import math
from xml.etree import ElementTree

import pytest

from hypergen.report.trade_off import Mark, marks_of, trade_off_chart, way_of
from hypergen.report.verdicts import Verdict, titled
from tests.report.records import record

RECORDS = [
    record("base greedy", ttr=0.2, overlap_mean=5.0),
    record("base beam", ttr=0.3, overlap_mean=5.0),
    record("base top-p", ttr=0.6, overlap_mean=math.nan),
    record("hyperfitted greedy", ttr=0.7, overlap_mean=5.25),
    record("original", ttr=0.75, overlap_mean=4.0),
]


def test_the_way_has_every_epoch_that_was_measured():
    log = [{"epoch": 0, "ttr": 0.2, "overlap_mean": 4.0}, {"epoch": 1, "loss": 3.0}]
    log += [{"epoch": 4, "ttr": 0.6, "overlap_mean": 5.0}, {"epoch": 8, "ttr": math.nan, "overlap_mean": 5.0}]
    assert way_of(log) == [(4.0, 0.2, 0), (5.0, 0.6, 4)] and way_of([]) == []


def test_marks_are_the_rows_that_a_reader_compares():
    marks = marks_of(RECORDS)
    assert [(mark.letter, mark.title, mark.is_ours) for mark in marks] == [
        ("A", "base greedy", False),
        ("B", "hyperfitted greedy", True),
        ("C", "original", False),
    ]
    assert marks[1].legend == "B hyperfitted greedy: TTR 0.700, overlap 5.25"
    failed = titled(RECORDS, Verdict(outcome="worse", sentences=()))
    assert marks_of(failed)[1].title == "fine-tuned greedy (worse)" and marks_of(failed)[1].is_ours


@pytest.mark.parametrize("way", [(), [(4.0, 0.2, 0)], [(4.0, 0.2, 0), (5.0, 0.5, 4), (6.0, 0.7, 8)]])
def test_the_trade_off_stays_inside_its_box(way):
    marks = [
        Mark(letter="A", title="a", overlap=5.0, diversity=0.2),
        Mark(letter="<", title="b", overlap=40.0, diversity=0.9, is_ours=True),
    ]
    svg = ElementTree.fromstring(trade_off_chart("a < b", marks, way))
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert svg.find("title").text == "a < b"
    squares = [(float(one.get("x")), float(one.get("y"))) for one in svg.findall("rect")]
    assert len(squares) == 2 and all(0 <= x <= width and 0 <= y <= height for x, y in squares)
    assert squares[0][0] < squares[1][0] and squares[0][1] > squares[1][1]  # right quotes more, up is more varied
    assert [one.text for one in svg.findall("text") if one.get("class") == "letter"] == ["A", "<"]
    dots = [(float(one.get("cx")), float(one.get("cy"))) for one in svg.findall("circle")]
    assert len(dots) == len(way) and dots == sorted(dots)
    numbered = [one.text for one in svg.findall("text") if one.text.startswith("epoch")]
    assert numbered == [f"epoch {epoch}" for epoch in sorted({way[0][2], way[-1][2]})] if way else numbered == []
