"""Foreign text cannot steer a terminal; one rank warns.

Alone: pytest tests/runtime/test_console.py
"""

import io
import unicodedata

import pytest

from hypergen.runtime import console
from hypergen.runtime.console import (
    dim,
    first_line,
    is_printable,
    sanitize,
    sanitize_block,
    warn,
    warn_once,
)

TOKEN = "hf_" + "a1" * 15


@pytest.mark.parametrize(
    "text, clean",
    [
        ("a\x1b[31m\x07b\n\tc\x9b\u202ed", "a[31mb cd"),
        ("  two   spaces\u00a0and\u2028lines\r\n", "two spaces and lines"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("not XML \ufffe\uffff", "not XML "),
        ("\N{WOMAN}\u200d\N{ROCKET} שלום e\u0301", "\N{WOMAN}\u200d\N{ROCKET} שלום e\u0301"),
        ("", ""),
    ],
)
def test_one_line_is_made_of_any_text(text, clean):
    assert sanitize(text) == clean


def test_a_block_keeps_its_lines_and_spaces():
    assert sanitize_block("a\x1b[31m\r\n\tb  c\u202e\ud83d\n") == "a[31m\n\tb  c\n"


def test_no_character_of_unicode_gets_through_that_controls_or_reorders():
    kept = {chr(code) for code in range(0x110000) if is_printable(chr(code))}
    controls = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not {char for char in kept if unicodedata.category(char) in ("Cc", "Cs")}
    assert not {char for char in kept if unicodedata.bidirectional(char) in controls}
    everything = "".join(map(chr, range(0x110000)))
    assert set(sanitize(everything)) <= kept and set(sanitize_block(everything)) <= kept | {"\n", "\t"}


def test_a_message_of_a_library_is_cut_to_its_first_line():
    assert first_line(ValueError("  first: \nsecond")) == "first"
    assert first_line(ValueError("")) == "ValueError"
    assert first_line(ValueError("x" * 500)) == "x" * console.LONGEST_LINE
    assert first_line(ValueError("long words"), 6) == "long w"


def test_a_warning_is_one_clean_line_without_secrets(capsys):
    warn(f"a\x1b[2J\nb https://me:word@host {TOKEN}")
    assert capsys.readouterr() == ("", "hypergen: a[2J b https://***@host hf_***\n")
    warn(TOKEN[:10] + "\x07" + TOKEN[10:])  # a token only once it is clean
    assert capsys.readouterr().err == "hypergen: hf_***\n"


@pytest.mark.parametrize("rank, lines", [("0", 1), ("1", 0)])
def test_only_the_first_rank_warns(rank, lines, monkeypatch, capsys):
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    warn("text")
    assert capsys.readouterr().err.count("\n") == lines


def test_once_is_once_a_text(capsys):
    warn_once.cache_clear()
    for text in ("one", "two", "one"):
        warn_once(text)
    assert capsys.readouterr().err == "hypergen: one\nhypergen: two\n"


class Gone:
    """A standard error that nobody reads any more."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError

    flush = write

    def isatty(self):
        return False


@pytest.mark.parametrize("failure", [BrokenPipeError, OSError(28, "No space left on device"), ValueError("closed")])
def test_a_standard_error_that_cannot_be_written_is_no_obstacle(failure, monkeypatch):
    gone = Gone()

    def fail(*_):
        raise failure

    gone.write = gone.flush = fail
    monkeypatch.setattr(console.sys, "stderr", gone)
    warn("nobody reads this")
    console.STANDARD_ERROR.flush()
    assert console.STANDARD_ERROR.encoding == "utf-8" and not console.STANDARD_ERROR.isatty()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, environment, is_dim",
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_text_is_faint_where_colours_are_wanted(stream, environment, is_dim, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert dim("a", stream) == ("\x1b[2ma\x1b[0m" if is_dim else "a")
    assert dim("", stream) == ""
