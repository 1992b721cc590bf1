"""Parse JSON objects strictly: one line of a data file, or a whole small file.

Bytes are read with a limit and scanned before they are parsed, so a hostile file costs neither time nor memory.
Messages never repeat the content of a file. Imports no library but the standard one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from hypergen.errors import InputError

LARGEST_FILE = 16 * 2**20  # bytes
DEEPEST = 64  # objects and arrays inside each other
MOST_VALUES = 100_000  # of a row of data
MOST_VALUES_IN_A_FILE = 1_000_000  # the index of a large model's weights has more than a row
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)  # strings as wholes; linear on any input
OPENING, CLOSING, COMMA = frozenset(b"[{"), frozenset(b"]}"), ord(",")


def read_object(path: Path, where: str | None = None) -> dict[str, Any]:
    """Read the object in a file; a byte order mark, NaN and infinite numbers are allowed, as in configurations.

    Args:
        path: the file.
        where: how messages begin, if not with the path.

    Raises:
        InputError: it cannot be read or is too large, else as `parse_object`.
    """
    where = where or str(path)
    content = read_limited(path, where).removeprefix(BYTE_ORDER_MARK)
    return parse_object(where, content, most_values=MOST_VALUES_IN_A_FILE, parse_constant=float)


def read_optional(path: Path) -> dict[str, Any] | None:
    """Read the object in a file; None where there is no such file.

    Raises:
        InputError: as `read_object`.
    """
    return read_object(path) if path.is_file() else None


def read_limited(path: Path, where: str) -> bytes:
    """Read all of a file of at most LARGEST_FILE bytes.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        is_odd = path.exists() and not (path.is_file() or path.is_dir())
        content = b"" if is_odd else _beginning(path)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL in it
        raise InputError(f"{where}: is not a file name") from None
    if is_odd:  # a named pipe would be waited for
        raise InputError(f"{where}: is not a regular file")
    if len(content) > LARGEST_FILE:
        raise InputError(f"{where}: is larger than {LARGEST_FILE // 2**20} MiB")
    return content


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_FILE + 1)


def parse_object(
    where: str, content: bytes, offset: int = 0, *, most_values: int = MOST_VALUES, parse_constant: Any = None
) -> dict[str, Any]:
    """Parse bytes that are one object.

    Args:
        where: how messages begin.
        content: the bytes, in UTF-8.
        offset: the byte of the file at which they start, for messages.
        most_values: objects, arrays and further members of both, at most.
        parse_constant: converts the words NaN and Infinity; None refuses them.

    Raises:
        InputError: not UTF-8, not strict JSON, not an object, a key twice, or too deep or too rich.
    """
    if b"\0" in content:
        raise InputError(f"{where}: has a NUL byte at byte {offset + content.index(0)} of the file")
    text = _decoded(where, content, offset)
    _check_shape(where, content, most_values)
    try:
        found = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=parse_constant or _refuse_constant
        )
    except _RefusedError as error:
        raise InputError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}" if "\n" in text else f"character {error.pos + 1}"
        raise InputError(f"{where}: is not JSON ({error.msg.removesuffix(' at')} at {place})") from None
    except (ValueError, RecursionError):  # a number with thousands of digits
        raise InputError(f"{where}: is not JSON that can be read (a number is too long)") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: is {kind_of(found)}, not an object")
    return found


def kind_of(value: Any) -> str:
    """Name the type of a value as JSON does, for messages that must not show the value."""
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
    }
    return kinds.get(type(value), "an object")


def _decoded(where: str, content: bytes, offset: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {offset + error.start} of the file") from None


def _check_shape(where: str, content: bytes, most_values: int) -> None:
    """Refuse content that would cost much to parse; most rows have too few brackets and commas to be scanned at all."""
    brackets = content.count(b"[") + content.count(b"{")
    if brackets <= DEEPEST and content.count(b",") < most_values:
        return
    values = depth = 0
    for match in STRUCTURE.finditer(content):
        byte = content[match.start()]
        values += byte in OPENING or byte == COMMA
        depth += (byte in OPENING) - (byte in CLOSING)
        if depth > DEEPEST:
            raise InputError(f"{where}: is nested deeper than {DEEPEST}")
        if values > most_values:
            raise InputError(f"{where}: has more than {most_values} values")


class _RefusedError(Exception):
    """Refuses JSON that the standard library would take."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RefusedError("has a key twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not JSON")
