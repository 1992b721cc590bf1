"""A strict reader of JSON Lines: one object a line, the text in one field. Every refusal names file, line and reason.

Lines are read with a limit and looked over before they are parsed, so a hostile file costs neither time nor memory.
Messages never repeat what a file contains. Imports only the standard library.
Does not know: tokens, where the rows go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hypergen.errors import InputError

LONGEST_LINE = 16 * 1024 * 1024  # bytes
DEEPEST = 64  # objects and arrays inside each other
MOST_VALUES = 100_000  # in one row
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)  # strings as wholes; linear on any input
OPENING, CLOSING, COMMA = frozenset(b"[{"), frozenset(b"]}"), ord(",")


def read_rows(path: Path, field: str) -> Iterator[str]:
    """The text of each row, in order; blank lines are skipped.

    Raises:
        InputError: file:line: reason.
    """
    with path.open("rb") as file:
        start = 0
        for number, line in enumerate(_lines(path, file), 1):
            where = f"{path}:{number}"
            content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            skipped = start + len(line) - len(content)
            start += len(line)
            if stripped := content.strip(b" \t\r\n"):
                lead = len(content) - len(content.lstrip(b" \t\r\n"))
                yield text_of(where, parse_row(where, stripped, skipped + lead), field)


def text_of(where: str, row: dict[str, Any], field: str) -> str:
    """The row's text, a string that can be written as UTF-8.

    Raises:
        InputError: the field is missing, is not a string, or holds NUL or half of a surrogate pair.
    """
    if field not in row:
        raise InputError(f"{where}: has no field '{field}' (--text-field)")
    text = row[field]
    if not isinstance(text, str):
        raise InputError(f"{where}: field '{field}' is {_kind(text)}, not a string")
    if "\0" in text:
        raise InputError(f"{where}: field '{field}' has a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: field '{field}' has half of a surrogate pair") from None
    return text


def parse_row(where: str, line: bytes, offset: int = 0) -> dict[str, Any]:
    """One line, without its line end -> its object. `offset`: the byte of the file at which it starts.

    Raises:
        InputError: it is not UTF-8, not strict JSON, not an object, or too deep or too rich.
    """
    if b"\0" in line:
        raise InputError(f"{where}: has a NUL byte at byte {offset + line.index(0)} of the file")
    text = _decoded(where, line, offset)
    _check_shape(where, line)
    try:
        row = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except _RefusedError as error:
        raise InputError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos + 1} of the line)") from None
    except (ValueError, RecursionError):  # a number with thousands of digits
        raise InputError(f"{where}: not JSON that can be read (a number is too long)") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: is {_kind(row)}, not an object")
    return row


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            nul = " and has NUL bytes" if b"\0" in line else ""
            raise InputError(f"{path}:{number}: is longer than {LONGEST_LINE // 2**20} MiB{nul}")
        yield line


def _decoded(where: str, line: bytes, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {offset + error.start} of the file") from None


def _check_shape(where: str, line: bytes) -> None:
    """Refuse what would cost much to parse. Most rows are short of brackets and commas and are not looked at again."""
    brackets = line.count(b"[") + line.count(b"{")
    if brackets <= DEEPEST and line.count(b",") < MOST_VALUES:
        return
    values = depth = 0
    for match in STRUCTURE.finditer(line):
        byte = line[match.start()]
        values += byte in OPENING or byte == COMMA
        depth += (byte in OPENING) - (byte in CLOSING)
        if depth > DEEPEST:
            raise InputError(f"{where}: is nested deeper than {DEEPEST}")
        if values > MOST_VALUES:
            raise InputError(f"{where}: has more than {MOST_VALUES} values in one row")


class _RefusedError(Exception):
    """JSON that the standard library would take and a strict reader does not."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _RefusedError("has a key twice")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not JSON")


def _kind(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
    }
    return kinds.get(type(value), "an object")
