"""Clean text for a terminal or a page, and warn on standard error.

Text that a file, a model or another library supplies must not steer a terminal or break a page. Imports no library
but the standard one.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from functools import cache
from typing import Any, TextIO

from hypergen.runtime.launcher import is_first_rank
from hypergen.runtime.redaction import redact

LONGEST_LINE = 200  # characters
KEPT_IN_BLOCKS = "\n\t"
DROPPED_CATEGORIES = ("Cc", "Cs")  # control characters, halves of surrogate pairs
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
DROPPED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")  # reorder text, or break XML


def sanitize(text: str) -> str:
    """Make one line of a text: white space becomes single spaces, control and direction characters are dropped."""
    return "".join(filter(is_printable, " ".join(text.split())))


def sanitize_block(text: str) -> str:
    """Drop control and direction characters, line ends and tabs excepted."""
    return "".join(char for char in text if char in KEPT_IN_BLOCKS or is_printable(char))


def is_printable(char: str) -> bool:
    """Tell whether a character neither controls a terminal nor reorders the text around it."""
    return unicodedata.category(char) not in DROPPED_CATEGORIES and char not in DROPPED


def first_line(error: BaseException, longest: int = LONGEST_LINE) -> str:
    """Cut a library's message to its first line, short enough to be part of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:longest].rstrip(" .:")


class StandardError:
    """Pass text on to standard error; drop it where nobody reads that any more, or its disk is full.

    Progress and warnings are no reason to end the work that they tell of.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to this stream; without one, to what `sys.stderr` is at the moment."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as far as possible."""
        with suppress(OSError, ValueError):  # ValueError: it was closed
            (self._stream or sys.stderr).write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as far as possible."""
        with suppress(OSError, ValueError):
            (self._stream or sys.stderr).flush()

    def __getattr__(self, name: str) -> Any:
        """Be in all else what the stream is."""
        return getattr(self._stream or sys.stderr, name)


STANDARD_ERROR = StandardError()


def warn(text: str) -> None:
    """Print a warning to standard error, sanitized and redacted, from the first rank alone."""
    if is_first_rank():
        print(as_message(text), file=STANDARD_ERROR)


def as_message(text: str) -> str:
    """Make a line for standard error: sanitized, then redacted, so that no control character hides a secret."""
    return f"hypergen: {redact(sanitize(text))}"


def dim(text: str, stream: TextIO) -> str:
    """Set text in a faint colour on a terminal that has colours and where nobody forbids them (no-color.org)."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if is_plain or not text else f"{DIM}{text}{PLAIN}"


@cache
def warn_once(text: str) -> None:
    """Print a warning once a process."""
    warn(text)
