"""Index JSON Lines strictly: one object a line; every error names file, line and reason.

Lines are read with a limit (`storage.line_reader`) and checked before they are parsed (`storage.strict_json`). Messages
never repeat the content of a file, the names of fields excepted. Imports no library but the standard one.
"""

from __future__ import annotations

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
    items = Indexed(content, partial(_item, content.name, select))
    with content.scan() as file:
        for number, start, line in lines_of(content.name, file):
            where = f"{content.name}:{number}"
            try:
                check_length(where, line)
                select(where, row_of(where, line, start))
            except InputError as error:
                skip(error)
            else:
                items.add(start, start + len(line))
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
