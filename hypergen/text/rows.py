"""A strict reader of JSON Lines: one object a line, the text in one field. Every refusal names file, line and reason.

Lines are read with a limit (`hypergen.lines`) and checked before they are parsed (`hypergen.strict_json`). Messages
never repeat what a file contains. Imports only the standard library.
Does not know: tokens, where the rows go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypergen.errors import InputError
from hypergen.lines import check_length, read_lines
from hypergen.skipping import Skip
from hypergen.strict_json import kind_of, parse_object


def read_rows(path: Path, field: str, skip: Skip) -> Iterator[str]:
    """The text of each row, in order; blank lines are passed over, and bad ones where `skip` returns.

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
    check_length(where, line)
    content = line.lstrip()
    return text_of(where, parse_object(where, content.rstrip(), start + len(line) - len(content)), field)
