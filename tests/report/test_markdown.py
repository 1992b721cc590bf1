"""Tables as Markdown. Alone: pytest tests/report/test_markdown.py"""

import re

from hypergen.report.markdown import markdown
from tests.report.records import CORE, RECORDS, record, rows_of


def test_a_table_with_intervals_nan_and_missing_values():
    heads, rule, first, second = rows_of(markdown(RECORDS, CORE))
    assert heads[1:] == ["TTR", "overlap mean", "overlap max", "overlap > 10", "rep-4", "held-out loss"]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rule)
    assert first == ["base greedy", "0.233 [0.200, 0.274]", "4.000", "14", "0.000", "-", "3.200"]
    assert second == ["hyperfitted greedy", "-", "5.250", "-", "-", "0.500", "-"]


def test_columns_can_be_chosen_and_unknown_names_are_readable():
    table = markdown([record("x", loss=1.0, my_new_measure=2.0)], CORE, ["my_new_measure", "absent"])
    assert [row[1:] for row in rows_of(table)][::2] == [["my new measure", "absent"], ["2.000", "-"]]


def test_no_records_and_no_values():
    assert len(rows_of(markdown([], CORE))) == 2
    assert rows_of(markdown([record("x")], CORE))[2] == ["x"]


def test_a_name_cannot_break_a_table():
    table = markdown([record("a|b\n| c [d](e) <i> \x1b[31m\\|", loss=1.0)], CORE)
    assert len(table.splitlines()) == 3 and "\x1b" not in table
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", table.splitlines()[2])) == 3
    assert r"\[d\](e) \<i>" in table


def test_lines_are_as_wide_as_each_other():
    assert len({len(line) for line in markdown(RECORDS, CORE).splitlines()}) == 1


def test_heads_can_say_which_way_is_better():
    heads = rows_of(markdown([record("x", rep_4=0.1, entropy=1.0)], CORE, with_directions=True))[0]
    assert heads[1:] == ["rep-4, lower is better", "entropy"]
