"""Index a .json file strictly: one array of objects, never parsed as a whole, or one object a line.

Each object is found by its braces, with a limit, then parsed as a row of JSON Lines is. Imports only the standard
library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, final

from hypergen.data.bad_rows import Skip
from hypergen.data.compressed import Content
from hypergen.data.jsonl import index_objects, index_rows, row_of
from hypergen.data.lazy import Indexed
from hypergen.data.rows import Select
from hypergen.errors import InputError
from hypergen.storage.line_reader import LONGEST_LINE, check_length, lines_of, skip_byte_order_mark
from hypergen.storage.strict_json import DEEPEST, MOST_VALUES

CHUNK = 2**20  # bytes read at a time
SPACE = re.compile(rb"[ \t\r\n]*")
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}]', re.DOTALL)  # strings as wholes; linear on any input
OPENING, CLOSING = ord("{"), ord("}")


def index_json(content: Content, select: Select, skip: Skip) -> Indexed:
    """Check every object, and remember where the good ones are: -> their items, read when they are needed.

    Args:
        content: the file.
        select: makes an item of a row.
        skip: is called with the error of a bad row; raises where it may not be skipped.

    Raises:
        InputError: file, row, reason; or it is neither an array nor one object a line.
    """
    with content.scan() as file:
        reader = _Reader(content.name, file)
        if reader.peek() == b"[":
            rows = enumerate(reader.elements(), 1)
            return index_objects(
                content, ((f"{content.name}: row {number}", *row) for number, row in rows), select, skip
            )
    _require_lines(content)
    return index_rows(content, select, skip)


def _require_lines(content: Content) -> None:
    """Refuse what is no array and has no object on its first line, before that line's own error misleads."""
    with content.open() as file:
        number, start, line = next(lines_of(content.name, file), (1, 0, b""))
    try:
        check_length(content.name, line)
        row_of(content.name, line, start)
    except InputError as error:
        reason = str(error).removeprefix(f"{content.name}: ")
        allowed = "is neither an array of objects nor one object a line"
        raise InputError(f"{content.name}:{number}: {allowed} ({reason})") from None


@final
class _Reader:
    """Step through an array, with a window on the file that moves on."""

    def __init__(self, name: str, file: BinaryIO):
        self._name, self._file = name, file
        self._first = skip_byte_order_mark(file)
        self._window, self._place = b"", 0  # bytes from `_first` on, and which of them is next

    def elements(self) -> Iterator[tuple[int, bytes]]:
        """Yield the first byte and the content of each object in the array.

        Raises:
            InputError: it is no array of objects, or ends too early.
        """
        number, expected = 0, b"["
        while self._take(expected):
            if number == 0 and self.peek() == b"]":
                break
            number += 1
            yield self._object(f"{self._name}: row {number}")
            expected = b"," if self.peek() != b"]" else b""
        self._take(b"]")
        if self.peek():
            raise InputError(f"{self._name}: has more behind the end of its array, at byte {self._byte}")

    def peek(self) -> bytes:
        """Go to the next byte that is no white space, and return it; nothing at the end of the file."""
        while True:
            self._place = SPACE.match(self._window, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._window) or not self._more():
                return self._window[self._place : self._place + 1]

    @property
    def _byte(self) -> int:
        return self._first + self._place

    def _take(self, expected: bytes) -> bool:
        """Step over a sign, if there is one to expect."""
        if not expected:
            return False
        if self.peek() != expected:
            sign = expected.decode()
            raise InputError(f"{self._name}: is not a JSON array of objects ('{sign}' missing at byte {self._byte})")
        self._place += 1
        return True

    def _object(self, where: str) -> tuple[int, bytes]:
        if self.peek() != b"{":
            raise InputError(f"{where}: is not an object")
        while (end := _end(where, self._window, self._place)) is None:
            if len(self._window) - self._place > LONGEST_LINE:
                raise InputError(f"{where}: is longer than {LONGEST_LINE // 2**20} MiB")
            if not self._more():
                raise InputError(f"{where}: the file ends inside it")
        start, element = self._byte, self._window[self._place : end]
        self._place = end
        return start, element

    def _more(self) -> bool:
        """Move the window on by one chunk; False at the end of the file."""
        chunk = self._file.read(CHUNK)
        self._first += self._place
        self._window, self._place = self._window[self._place :] + chunk, 0
        return bool(chunk)


def _end(where: str, window: bytes, place: int) -> int | None:
    """Find the end of the object that begins at `place`; None where the window ends before.

    Raises:
        InputError: it is too deep or too rich.
    """
    depth = 0
    for number, match in enumerate(TOKEN.finditer(window, place)):
        byte = window[match.start()]
        depth += (byte == OPENING) - (byte == CLOSING)
        if depth == 0:
            return match.end()
        if depth > DEEPEST:
            raise InputError(f"{where}: is nested deeper than {DEEPEST}")
        if number > 4 * MOST_VALUES:  # a value is at most two strings and two braces
            raise InputError(f"{where}: has more than {MOST_VALUES} values")
    return None
