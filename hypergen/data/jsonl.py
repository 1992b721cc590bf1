"""Read JSON Lines strictly: one object a line, the text in one field; every error names file, line and reason.

Lines are read with a limit (`storage.line_reader`) and checked before they are parsed (`storage.strict_json`). Messages
never repeat the content of a file. Imports no library but the standard one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypergen.data.bad_rows import Skip
from hypergen.errors import InputError
from hypergen.storage.line_reader import check_length, read_lines
from hypergen.storage.strict_json import kind_of, parse_object


def read_rows(path: Path, field: str, skip: Skip) -> Iterator[str]:
    """Yield the text of each row, in order, without blank lines and without the bad ones that `skip` allows.

    Args:
        path: the file.
        field: the field of each object that holds the text.
        skip: is called with the error of a bad row; raises where it may not be skipped.

    Raises:
        InputError: file:line: reason.
    """
    for number, start, line in read_lines(path):
        try:
            text = _text(f"{path}:{number}", line, start, field)
        except InputError as error:
            skip(error)
        else:
            yield text


def text_of(where: str, row: dict[str, Any], field: str) -> str:
    """Return the text of a row, a string that can be written as UTF-8.

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
    """Parse one line, which starts at byte `start` of the file."""
    check_length(where, line)
    content = line.lstrip()
    return text_of(where, parse_object(where, content.rstrip(), start + len(line) - len(content)), field)
