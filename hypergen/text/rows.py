"""A strict reader of JSON Lines: one object a line, the text in one field. Every refusal names file, line and reason.

Lines are read with a limit and checked before they are parsed (`hypergen.strict_json`). Messages never repeat what a
file contains. Imports only the standard library.
Does not know: tokens, where the rows go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hypergen.errors import InputError
from hypergen.skipping import Skip
from hypergen.strict_json import BYTE_ORDER_MARK, kind_of, parse_object

LONGEST_LINE = 16 * 1024 * 1024  # bytes
PIECE = 1024 * 1024
MOST_PASSED_OVER = 64 * 1024 * 1024  # bytes of a line that is too long


def read_rows(path: Path, field: str, skip: Skip) -> Iterator[str]:
    """The text of each row, in order; blank lines are passed over, and bad ones where `skip` returns.

    Raises:
        InputError: file:line: reason.
    """
    with path.open("rb") as file:
        if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            file.seek(0)
        for number, start, line in _lines(path, file):
            if line.isspace():
                continue
            try:
                text = _text(f"{path}:{number}", line, start, field)
            except InputError as error:
                skip(error)
            else:
                yield text


def text_of(where: str, row: dict[str, Any], field: str) -> str:
    """The row's text, a string that can be written as UTF-8.

    Raises:
        InputError: the field is missing, is not a string, or holds NUL or half of a surrogate pair.
    """
    if field not in row:
        raise InputError(f"{where}: has no field '{field}' (--text-field)")
    text = row[field]
    if not isinstance(text, str):
        raise InputError(f"{where}: field '{field}' is {kind_of(text)}, not a string")
    if "\0" in text:
        raise InputError(f"{where}: field '{field}' has a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: field '{field}' has half of a surrogate pair") from None
    return text


def _text(where: str, line: bytes, start: int, field: str) -> str:
    """The text of one line that starts at byte `start` of the file."""
    if len(line) > LONGEST_LINE:
        nul = " and has NUL bytes" if b"\0" in line else ""
        raise InputError(f"{where}: is longer than {LONGEST_LINE // 2**20} MiB{nul}")
    content = line.lstrip()
    return text_of(where, parse_object(where, content.rstrip(), start + len(line) - len(content)), field)


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number, first byte and content of each line; of one that is too long a part, its rest is passed over later."""
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
