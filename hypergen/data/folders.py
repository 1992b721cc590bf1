"""Find the files of a folder that a reader wants, in the order of their names, and the folder of a user.

Hidden files and folders do not count, nor does `__MACOSX`. Imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from hypergen.errors import InputError
from hypergen.runtime.console import warn

Test = Callable[[Path], bool]


def find_files(folder: Path, is_wanted: Test, is_unit: Test, allowed: str) -> list[Path]:
    """List what can be read below a folder, and say in one line what is passed over.

    Args:
        folder: is searched with the folders in it, links to folders excepted.
        is_wanted: tells a file by its name.
        is_unit: tells a folder that is read as one.
        allowed: what can be read, for messages.

    Raises:
        InputError: nothing can.
    """
    wanted: list[Path] = []
    others: list[Path] = []
    for path in _walk(folder, is_unit):
        (wanted if path.is_dir() or is_wanted(path) else others).append(path)
    if not wanted:
        found = f"the first of {len(others)} others is {others[0]}" if others else "it is empty"
        raise InputError(f"{folder}: is a folder without a file that can be read ({found}); allowed are {allowed}")
    if others:
        warn(f"{folder}: {len(others)} files passed over, the first is {others[0]}; {len(wanted)} are read")
    return wanted


def expanded(source: str | Path) -> Path:
    """Expand `~` and `~user` at the beginning of a path.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise InputError(f"{source}: there is no such user, or none with a home folder") from None


def _walk(folder: Path, is_unit: Test) -> Iterator[Path]:
    """Yield files and whole folders, sorted by their paths."""
    if is_unit(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, is_unit)
        elif not path.is_dir():
            yield path
