"""Index JSON Lines strictly: one object a line; every error names file, line and reason.

Lines are read with a limit (`storage.line_reader`) and checked before they are parsed (`storage.strict_json`). Messages
never repeat the content of a file, the names of fields excepted. Imports no library but the standard one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from hypergen.data.bad_rows import Skip
from hypergen.data.compressed import Content
from hypergen.data.lazy import Indexed
from hypergen.data.rows import Select
from hypergen.errors import InputError
from hypergen.storage.line_reader import check_length, lines_of
from hypergen.storage.strict_json import parse_object


def index_rows(content: Content, select: Select, skip: Skip) -> Indexed:
    """Check every row, and remember where the good ones are: -> their items, without blank lines, read when needed.

    Args:
        content: the file.
        select: makes an item of a row.
        skip: is called with the error of a bad row; raises where it may not be skipped.

    Raises:
        InputError: file:line: reason.
    """
    with content.scan() as file:
        lines = lines_of(content.name, file)
        return index_objects(
            content, ((f"{content.name}:{number}", start, line) for number, start, line in lines), select, skip
        )


def index_objects(content: Content, objects: Iterable[tuple[str, int, bytes]], select: Select, skip: Skip) -> Indexed:
    """Check objects in the order of a file: -> the items of the good ones.

    Args:
        content: the file.
        objects: of each where it stands, for messages, its first byte in the file, and its bytes.
        select: makes an item of a row.
        skip: as in `index_rows`.
    """
    items = Indexed(content, partial(_item, content.name, select))
    for where, start, text in objects:
        try:
            check_length(where, text)
            select(where, row_of(where, text, start))
        except InputError as error:
            skip(error)
        else:
            items.add(start, start + len(text))
    return items


def row_of(where: str, line: bytes, start: int) -> dict[str, Any]:
    """Parse one row, which starts at byte `start` of the file; NaN passes, since it may be in a field that nobody uses.

    Raises:
        InputError: as `parse_object`.
    """
    content = line.lstrip()
    return parse_object(where, content.rstrip(), start + len(line) - len(content), parse_constant=float)


def _item(name: str, select: Select, line: bytes) -> Any:
    return select(name, row_of(name, line, 0))
