"""Notice that a folder which this process has locked is another one now.

A run takes hours and is written by its path. A folder that somebody moved away meanwhile, with a link or another run in
its place, would lead the run's files over those of others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypergen.errors import DiskError

_HELD: dict[Path, tuple[int, int]] = {}  # of this process: absolute path -> device and number of the folder


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Remember which folder a path leads to, for `check_held`."""
    path = Path(os.path.abspath(folder))
    _HELD[path] = _identity(path)
    try:
        yield
    finally:
        _HELD.pop(path, None)


def check_held(folder: Path) -> None:
    """Refuse to write where a held folder, or one that this is inside, is not the one that it was.

    Raises:
        DiskError: the path leads to another folder, or nowhere.
    """
    path = Path(os.path.abspath(folder))
    for one in (path, *path.parents):
        if one in _HELD and not _is_held(one):
            raise DiskError(f"{one}: is not the folder that this run has locked; nothing is written into it")


def _is_held(path: Path) -> bool:
    try:
        return _identity(path) == _HELD[path]
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
