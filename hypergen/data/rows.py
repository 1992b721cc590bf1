"""Select the value of a row, by the name of its field or a dotted path into it, whatever file the row came from.

Messages name fields, never what they hold. Imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from hypergen.errors import InputError
from hypergen.runtime.console import sanitize
from hypergen.storage.strict_json import kind_of

Select = Callable[[str, dict[str, Any]], Any]  # (where, row) -> item; raises where the row has none
MOST_NAMES = 12  # of fields in a message
LONGEST_NAME = 40  # characters
MISSING = object()


def text_of(where: str, row: dict[str, Any], field: str) -> str:
    """Return the text of a row, a string that can be written as UTF-8.

    Args:
        where: how messages begin.
        row: its fields.
        field: the name of one, or a dotted path: `data.text` is the field `text` of the object in `data`.

    Raises:
        InputError: the field is missing, is not a string, or holds NUL or half of a surrogate pair.
    """
    return checked_text(where, field, value_of(where, row, field))


def value_of(where: str, row: dict[str, Any], field: str) -> Any:
    """Return what a field of a row holds, of any type.

    Raises:
        InputError: the field is missing; the message lists those that are there.
    """
    value = _value(row, field)
    if value is MISSING:
        raise InputError(no_field(where, row, field))
    return value


def checked_text(where: str, field: str, text: Any) -> str:
    """Return what a field holds once it is known to be a string that can be written as UTF-8.

    Raises:
        InputError: it is not a string, or holds NUL or half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: field '{field}' is {kind_of(text)}, not a string")
    if "\0" in text:
        raise InputError(f"{where}: field '{field}' has a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: field '{field}' has half of a surrogate pair") from None
    return text


def no_field(where: str, row: dict[str, Any], field: str) -> str:
    """Say that a field is missing, and list those that are there."""
    return f"{where}: has no field '{field}' (--text-field); it has {listed(_names(row))}"


def listed(names: Iterable[str]) -> str:
    """List names out of a file, a few of them and cut, for a message."""
    shown = [sanitize(name)[:LONGEST_NAME] for name in islice(names, MOST_NAMES + 1)]
    return f"{', '.join(shown[:MOST_NAMES]) or 'none'}{', ...' if len(shown) > MOST_NAMES else ''}"


def _value(row: dict[str, Any], field: str) -> Any:
    """Look a field up by its whole name first, then step by step."""
    if field in row:
        return row[field]
    value: Any = row
    for name in field.split("."):
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def _names(row: dict[str, Any]) -> Iterator[str]:
    """Yield the names of fields; one that holds an object gives a path for each field in it."""
    for name, value in row.items():
        yield from (f"{name}.{inner}" for inner in value) if isinstance(value, dict) and value else (str(name),)
