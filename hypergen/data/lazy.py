"""Hold items that stay where they are until they are asked for: by byte range, joined, or in another order.

An index has 16 bytes an item, so that a file may be much larger than the memory. Imports only the standard library.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, final

from hypergen.data.compressed import Content
from hypergen.errors import InputError
from hypergen.modality import Item
from hypergen.runtime.console import first_line


@final
class Indexed(Sequence[Item]):
    """Hold the items of one file by the byte ranges in which they lie."""

    def __init__(self, content: Content, decode: Callable[[bytes], Item]):
        """Start without items; `add` names them.

        Args:
            content: the file.
            decode: makes an item of the bytes of its range.
        """
        self._content, self._decode = content, decode
        self._starts, self._ends = array("Q"), array("Q")

    def add(self, start: int, end: int) -> None:
        """Name the byte range of the next item."""
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        return look_up(self, index, self._read)

    def _read(self, index: int) -> Item:
        try:
            return self._decode(self._content.read(self._starts[index], self._ends[index]))
        except (OSError, ValueError) as error:  # all of it was good when the index was made
            raise InputError(f"{self._content.name}: has changed since it was opened ({first_line(error)})") from None


@final
class Concatenated(Sequence[Item]):
    """Join sequences, one behind the other."""

    def __init__(self, parts: Iterable[Sequence[Item]]):
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        return look_up(self, index, self._read)

    def _read(self, index: int) -> Item:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


@final
class Subset(Sequence[Item]):
    """Hold some items of a sequence, in a given order."""

    def __init__(self, items: Sequence[Item], order: Sequence[int]):
        self._items, self._order = items, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self._items, self._order[index])
        return self._items[self._order[index]]


def look_up(items: Sequence[Item], index: Any, read: Callable[[int], Item]) -> Any:
    """Answer an index as a list does, with `read` for one item and a lazy subset for a slice."""
    places = range(len(items))
    return Subset(items, places[index]) if isinstance(index, slice) else read(places[index])
