"""Tables on a terminal, and off it. Alone: pytest tests/report/test_terminal.py"""

import io
import re
import sys

from hypergen.report.markdown import markdown
from hypergen.report.terminal import passage, terminal
from tests.report.records import CORE, RECORDS, record


class Screen(io.StringIO):
    def isatty(self):
        return True


def on_screen(monkeypatch, records, width, names=None):
    screen = Screen()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    terminal(records, CORE, names)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())


def test_off_a_terminal_the_table_is_markdown(capsys):
    terminal(RECORDS, CORE)
    assert capsys.readouterr().out == markdown(RECORDS, CORE)
    terminal(RECORDS, CORE, ["rep_4"])
    assert capsys.readouterr().out == markdown(RECORDS, CORE, ["rep_4"])


def test_on_a_terminal_names_stay_what_they_are(monkeypatch):
    shown = on_screen(monkeypatch, [record("[red]x[/] [/bad] \x1b]0;t\x07 \x9b2J", loss=1.0)], 200)
    assert "[red]x[/] [/bad] ]0;t 2J" in shown and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_only_chosen_columns_are_drawn(monkeypatch):
    shown = on_screen(monkeypatch, RECORDS, 200, ["rep_4"])
    assert "rep-4" in shown and "TTR" not in shown


def test_a_table_too_wide_for_the_terminal_lies_on_its_side(monkeypatch):
    wide = on_screen(monkeypatch, RECORDS, 200)
    narrow = on_screen(monkeypatch, RECORDS, 70)
    assert any("base greedy" in line and "14" in line for line in wide.splitlines())
    assert any("base greedy" in line and "hyperfitted greedy" in line for line in narrow.splitlines())
    tight = on_screen(monkeypatch, RECORDS, 60)
    assert re.search(r"0\.233 .*\n.* \[0\.200, 0\.274\] ", tight) and "base greedy" in tight
    assert "0.233 [0.200, 0.274]" in wide and "0.233 [0.200, 0.274]" in narrow


def test_a_table_says_which_way_is_better(monkeypatch, capsys):
    terminal(RECORDS, CORE, ["rep_4"], with_directions=True)
    assert "rep-4, lower is better" in capsys.readouterr().out


STRETCHES = [["so it\n went on", False], [" and on\x1b[31m ", True], ["[red]. ", False], [" ", True]]


def test_off_a_terminal_a_marked_passage_has_brackets(capsys):
    passage("before", STRETCHES)
    assert capsys.readouterr().out == "before  so it went on [and on[31m] [red].\n"


def test_on_a_terminal_a_passage_is_wrapped_beside_its_label(monkeypatch):
    screen = Screen()
    monkeypatch.setenv("COLUMNS", "27")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    passage("before", STRETCHES)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert [line.rstrip() for line in shown.splitlines()] == ["before  so it went on [and", "        on[31m] [red]."]
