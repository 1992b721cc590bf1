"""The frame of the page and its style sheet. Alone: pytest tests/report/test_style.py"""

import re
import string

from hypergen.report.chart import line_chart
from hypergen.report.page import page
from hypergen.report.style import PAGE, STYLE
from hypergen.report.trade_off import marks_of, trade_off_chart
from tests.report.records import COLUMNS, CURVES, FRAGMENT, RECORDS, record


def test_the_frame_has_the_fields_that_the_page_fills():
    fields = [name for _, name, _, _ in string.Formatter().parse(PAGE) if name]
    assert sorted(fields) == ["body", "security", "style", "title"]


def test_every_rule_is_closed_and_every_colour_is_defined():
    assert STYLE.count("{") == STYLE.count("}")
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in STYLE.split("@media (prefers-color-scheme: dark)"))
    assert set(re.findall(r"var\((--\w+)\)", STYLE)) == light == dark


def test_every_class_that_is_drawn_has_a_style():
    records = [*RECORDS, record("base greedy", rep_2=0.5)]
    html = page("t", records, COLUMNS, facts={"a": 1}, curves=CURVES, figure=FRAGMENT)
    drawn = set(re.findall(r'class="(\w+)"', html)) | set(re.findall(r'class="(\w+)"', line_chart("t", [(0, 1.0)])))
    drawn |= set(re.findall(r'class="(\w+)"', trade_off_chart("t", marks_of(RECORDS))))
    assert {"results", "ours", "chart", "mark", "letter", "scroll", "facts", "compare"} <= drawn
    assert all(re.search(rf"\.{name}\b", STYLE) for name in drawn)


def test_a_picture_has_no_frame_around_it():
    assert ".scroll:has(> img) { border: 0; border-radius: 0; }" in STYLE


def test_a_narrow_screen_stacks_the_texts_under_their_titles():
    narrow = STYLE.split("@media (max-width: 40rem)")[1]
    assert ".compare thead { display: none; }" in narrow and "content: attr(data-title)" in narrow
    assert ".compare .recited { outline" in STYLE
    for outcome in ("hyperfitted", "worse", "not-hyperfitted"):
        assert f".verdict.{outcome}" in STYLE
