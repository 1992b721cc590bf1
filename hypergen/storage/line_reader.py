"""Read the lines of a file as bytes, with a limit, so that no line fills the memory.

Imports no library but the standard one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hypergen.errors import InputError
from hypergen.storage.strict_json import BYTE_ORDER_MARK

LONGEST_LINE = 16 * 1024 * 1024  # bytes
CHUNK = 1024 * 1024  # bytes that are skipped at a time
MOST_SKIPPED = 64 * 1024 * 1024  # bytes of a line that is too long


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, first byte and content of each line of a file that is not blank, as `lines_of` does."""
    with path.open("rb") as file:
        yield from lines_of(str(path), file)


def lines_of(name: str, file: BinaryIO, *, blank: bool = False) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, first byte and content of each line, without a byte order mark in front.

    A line longer than LONGEST_LINE is cut to one byte more, which `check_length` refuses.

    Args:
        name: of the file, for messages.
        file: read from where it stands; bytes are counted from there.
        blank: yield lines of white space, too.
    """
    first = file.tell()
    skip_byte_order_mark(file)
    for number, start, line in _lines(name, file):
        if blank or not line.isspace():
            yield number, start - first, line


def skip_byte_order_mark(file: BinaryIO) -> int:
    """Go behind a byte order mark, if the file has one here; return its length, else 0."""
    first = file.tell()
    if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
        return len(BYTE_ORDER_MARK)
    file.seek(first)
    return 0


def check_length(where: str, line: bytes) -> None:
    """Refuse a line that `read_lines` had to cut.

    Raises:
        InputError: it is longer than LONGEST_LINE.
    """
    if len(line) > LONGEST_LINE:
        nul = " and has NUL bytes" if b"\0" in line else ""
        raise InputError(f"{where}: is longer than {LONGEST_LINE // 2**20} MiB{nul}")


def _lines(name: str, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield all lines; the rest of one that is too long is skipped only when another line is asked for."""
    start, number = file.tell(), 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        yield number, start, line
        start += len(line)
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            start += _skip_line(f"{name}:{number}", file)


def _skip_line(where: str, file: BinaryIO) -> int:
    """Go to the next line; return the number of bytes on the way.

    Raises:
        InputError: the line does not end within MOST_SKIPPED bytes.
    """
    skipped = 0
    while chunk := file.read(CHUNK):
        if (end := chunk.find(b"\n") + 1) > 0:
            file.seek(end - len(chunk), os.SEEK_CUR)
            return skipped + end
        skipped += len(chunk)
        if skipped > MOST_SKIPPED:  # a gigabyte would take seconds
            raise InputError(f"{where}: is longer than {(LONGEST_LINE + MOST_SKIPPED) // 2**20} MiB")
    return skipped
