"""The lines of a file as bytes, with a limit, so that no line fills the memory. Imports only the standard library.

Does not know: what a line holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hypergen.errors import InputError
from hypergen.strict_json import BYTE_ORDER_MARK

LONGEST_LINE = 16 * 1024 * 1024  # bytes
PIECE = 1024 * 1024
MOST_PASSED_OVER = 64 * 1024 * 1024  # bytes of a line that is too long


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, first byte and content of each line that is not blank; a byte order mark in front is passed over.

    Of a line that is longer than LONGEST_LINE comes a beginning that is one byte longer; `check_length` refuses it.
    """
    with path.open("rb") as file:
        if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            file.seek(0)
        for number, start, line in _lines(path, file):
            if not line.isspace():
                yield number, start, line


def check_length(where: str, line: bytes) -> None:
    if len(line) > LONGEST_LINE:
        nul = " and has NUL bytes" if b"\0" in line else ""
        raise InputError(f"{where}: is longer than {LONGEST_LINE // 2**20} MiB{nul}")


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """The rest of a line that is too long is passed over later, where more lines are asked for."""
    start, number = file.tell(), 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        yield number, start, line
        start += len(line)
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            start += _pass_over_line(f"{path}:{number}", file)


def _pass_over_line(where: str, file: BinaryIO) -> int:
    """Go to the next line; the number of bytes on the way."""
    passed = 0
    while piece := file.read(PIECE):
        if (end := piece.find(b"\n") + 1) > 0:
            file.seek(end - len(piece), os.SEEK_CUR)
            return passed + end
        passed += len(piece)
        if passed > MOST_PASSED_OVER:  # a gigabyte would take seconds
            raise InputError(f"{where}: is longer than {(LONGEST_LINE + MOST_PASSED_OVER) // 2**20} MiB")
    return passed
