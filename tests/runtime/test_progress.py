"""Plain lines where nobody can see a bar, a bar on a terminal and in a notebook, nothing where that was asked for.

Alone: pytest tests/runtime/test_progress.py
"""

import io
import re
import sys
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest

from hypergen.runtime import progress
from hypergen.runtime.console import warn
from hypergen.runtime.progress import note, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """For `redirect_stderr`; rich reads the kind and width of a terminal from the environment."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_short_work_prints_its_end_only(capsys, clock):
    with track("count", 3) as advance:
        for loss in (3.0, 2.0, 1.0):
            clock(1)
            advance(tokens=500, loss=loss)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "count: 3/3  loss 1.000  500 tokens/s  0 s left\n"


def test_long_work_prints_every_ten_seconds(capsys, clock):
    with track("count", 100) as advance:
        for _ in range(25):
            clock(1)
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["10/100", "20/100"]
    assert lines[0].endswith("90 s left")


def test_a_short_passing_phase_prints_nothing(capsys, clock):
    with track("count", 3, transient=True) as advance:
        for _ in range(3):
            clock(3)
            advance()
    assert capsys.readouterr().err == ""


def test_a_long_passing_phase_prints_as_any_other(capsys, clock):
    with track("count", 3, transient=True) as advance:
        for _ in range(3):
            clock(6)
            advance()
    assert capsys.readouterr().err == "count: 2/3    6 s left\ncount: 3/3    0 s left\n"


def test_parts_of_a_count_add_up(capsys, clock):
    """Within a count the time left is known, too."""
    with track("count", 2) as advance:
        for _ in range(6):
            clock(10)
            advance(1 / 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["0/2", "0/2", "1/2", "1/2", "1/2", "2/2"]
    assert [line.split()[2] for line in lines] == ["50", "40", "30", "20", "10", "0"]


def test_time_left_counts_only_what_this_process_did(capsys, clock):
    with track("count", 100, done=90) as advance:
        clock(20)
        advance(2)
    assert capsys.readouterr().err == "count: 92/100    80 s left\n"


def test_plain_lines_hold_no_control_codes(capsys, clock):
    with track("a\x1b[2J\nb", 1) as advance:
        advance()
    assert capsys.readouterr().err == "a[2J b: 1/1    0 s left\n"


def test_nothing_to_do_prints_nothing(capsys):
    with track("count", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_terminal_gets_a_bar(terminal):
    with redirect_stderr(terminal), track("count", 4, done=1) as advance:
        advance(3, tokens=10, loss=0.5)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "count" in shown and "4/4" in shown and "loss 0.500" in shown and "tokens/s" in shown


def test_the_bar_of_a_passing_phase_vanishes(terminal):
    with redirect_stderr(terminal), track("count", 3, transient=True) as advance:
        for _ in range(9):
            advance(1 / 3)
    assert "3/3" in terminal.getvalue() and terminal.getvalue().rstrip("\r").endswith("\x1b[2K")


def test_label_cannot_style_or_break_the_terminal(terminal):
    with redirect_stderr(terminal), track("[bold red]a\x1b[2J\\", 1) as advance:
        advance()
    assert "[bold red]a" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_an_error_inside_passes_through(terminal):
    with pytest.raises(KeyError), redirect_stderr(terminal), track("count", 2):
        raise KeyError


def test_without_a_label_nothing_is_shown(capsys, terminal):
    with redirect_stderr(terminal), track("", 1) as advance:
        advance(tokens=1, loss=1.0)
    with track("", 1) as advance:
        advance()
    assert terminal.getvalue() == "" and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_work_goes_on_where_nobody_reads_its_progress(is_terminal, monkeypatch):
    class Gone(io.StringIO):
        def isatty(self):
            return is_terminal

        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stderr(Gone()), track("fit", 3) as advance:
        for _ in range(3):
            advance(tokens=5, loss=1.0)


# In a notebook, and hidden.


@pytest.fixture
def notebook(monkeypatch):
    """A kernel that shows what it is given; gives the pages that a browser was sent, newest last."""
    pages = []

    def show(shown, display_id=False):
        assert display_id is True
        pages.append(shown._repr_html_())
        return SimpleNamespace(update=lambda again: pages.append(again._repr_html_()))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=show))
    return SimpleNamespace(pages=pages, shell=shell)


def test_a_notebook_gets_a_bar_of_its_own(notebook, capsys, clock):
    with track("count <b>", 4, done=1) as advance:
        for _ in range(3):
            clock(1)
            advance(tokens=10, loss=0.5)
    assert notebook.pages[0] == 'count &lt;b&gt; <progress value="1" max="4"></progress> 1/4 '
    assert notebook.pages[-1] == (
        'count &lt;b&gt; <progress value="4" max="4"></progress> 4/4 loss 0.500  10 tokens/s  0 s left'
    )
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_not_flooded(notebook, clock):
    with track("count", 1000) as advance:
        for _ in range(999):
            clock(0.01)
            advance()
    assert 40 <= len(notebook.pages) <= 60


def test_the_notebook_s_bar_of_a_passing_phase_vanishes(notebook):
    with pytest.raises(KeyError), track("count", 2, transient=True):
        raise KeyError
    assert notebook.pages[-1] == ""


def test_ipython_on_a_terminal_is_no_notebook(notebook, capsys):
    notebook.shell.kernel = None
    with track("count", 1) as advance:
        advance()
    assert notebook.pages == [] and capsys.readouterr().err == "count: 1/1    0 s left\n"


def test_hidden_progress_is_not_shown_and_comes_back(notebook, terminal, capsys):
    with progress.hidden(), redirect_stderr(terminal), track("count", 1) as advance:
        advance(tokens=3, loss=1.0)
    with progress.hidden(), progress.hidden(False), track("count", 1) as advance:
        advance()
    assert notebook.pages == [] and terminal.getvalue() == "" and capsys.readouterr() == ("", "")
    with progress.hidden(False), track("count", 1) as advance:
        advance()
    assert notebook.pages


def test_notes_are_hidden_with_the_progress_and_warnings_are_not(capsys):
    with progress.hidden():
        note("noted")
        warn("warned")
        with progress.hidden(False):  # inside a hidden block all stays so
            note("noted")
    with progress.hidden(False):
        note("noted again")
    assert capsys.readouterr().err == "hypergen: warned\nhypergen: noted again\n"
