"""Index comma-separated values strictly: a header, then as many cells a row; quoted cells may hold line ends.

Every cell is text as it stands: nothing is taken for a number, a date or a missing value. Imports only the standard
library.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, final

from hypergen.data.bad_rows import Skip
from hypergen.data.compressed import Content
from hypergen.data.lazy import Indexed
from hypergen.data.rows import Select
from hypergen.errors import InputError
from hypergen.storage.line_reader import LONGEST_LINE, check_length, lines_of


def index_csv(content: Content, select: Select, skip: Skip) -> Indexed:
    """Check every row, and remember where the good ones are: -> their items, read when they are needed.

    Args:
        content: the file, in UTF-8.
        select: makes an item of a row, whose fields are the columns of the header.
        skip: is called with the error of a bad row; raises where it may not be skipped.

    Raises:
        InputError: file:line: reason.
    """
    with content.scan() as file, _long_cells():
        lines = _Lines(content.name, file)
        reader = csv.reader(lines, strict=True)
        header = _header(content.name, reader)
        items = Indexed(content, partial(_item, content.name, header, select))
        while True:
            start, where = lines.place, f"{content.name}:{lines.number + 1}"
            try:
                cells = next(reader, None)
                if cells is None:
                    return items
                if cells:
                    select(where, _row(where, header, cells))
                    items.add(start, lines.place)
            except csv.Error as error:
                skip(InputError(f"{where}: is not CSV ({error})"))
            except InputError as error:
                skip(error)


@final
class _Lines:
    """Yield decoded lines, and know where the next one begins; an error does not end it."""

    def __init__(self, name: str, file: BinaryIO):
        self._name, self._lines = name, lines_of(name, file, blank=True)
        self.number, self.place = 0, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, start, line = next(self._lines)
        self.place = start + len(line)
        where = f"{self._name}:{self.number}"
        check_length(where, line)
        return _decoded(where, line, start)


def _decoded(where: str, line: bytes, start: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {start + error.start} of the file") from None


def _header(name: str, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise InputError(f"{name}:1: is not CSV ({error})") from None
    if len(set(header)) < len(header):
        raise InputError(f"{name}:1: has a column twice")
    return header


def _row(where: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InputError(f"{where}: has {len(cells)} cells, the header {len(header)}")
    return dict(zip(header, cells, strict=True))


def _item(name: str, header: list[str], select: Select, record: bytes) -> Any:
    try:
        with _long_cells():
            cells = next(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), strict=True), [])
    except csv.Error as error:
        raise InputError(f"{name}: is not CSV ({error})") from None
    return select(name, _row(name, header, cells))


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be as long as a line may be; the limit is one for the whole process, so it is set back."""
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)
