"""Open files that are written in place: never through a link, nothing but regular ones.

Such a file lies where other users may write, too: a link in its place would lead to a file that is not ours. A lock
and a temporary folder hold a record of the process that made them: it tells them from what somebody else put there.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import BinaryIO, cast

from hypergen.errors import InputError

BEGINNING = b"process "  # of a record
LONGEST_RECORD = 2000  # bytes
NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is opened without waiting, and then refused


def process_record() -> str:
    """Describe this process in one line."""
    return f"process {os.getpid()} on {socket.gethostname()}\n"


def is_record(content: bytes) -> bool:
    """Tell whether a content is a record, or what a process killed while it wrote one has left of it."""
    return len(content) <= LONGEST_RECORD and (content.startswith(BEGINNING) or BEGINNING.startswith(content))


def open_own(path: Path) -> BinaryIO:
    """Open a file to read and append, without a buffer; it is made where there is none.

    Raises:
        InputError: it is a link, or no regular file.
    """
    try:
        file = open(path, "a+b", buffering=0, opener=_without_links)  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise InputError(f"{path}: is a symbolic link; remove it, hypergen writes through none") from error
        raise
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        what = "has another name, too (a hard link)" if stat.S_ISREG(found.st_mode) else "is not a regular file"
        raise InputError(f"{path}: {what}; remove it")
    return cast(BinaryIO, file)


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | NO_LINK, 0o666)


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write to a file without a buffer, which may take a part at a time."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def read_record(path: Path) -> bytes | None:
    """Read the record in a file; None where there is no such regular file, or it holds something else."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(LONGEST_RECORD + 1)
    except OSError:
        return None
    return content if is_record(content) else None
