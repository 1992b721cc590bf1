"""Write files and folders atomically, and turn disk errors into one line.

Everything is written into a temporary folder, flushed to disk, listed with SHA-256 in `manifest.json` (folders; written
last), and renamed into place. File modes follow the umask. A transient error of a network disk is retried once.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypergen.errors import DiskError, InputError
from hypergen.runtime.console import warn
from hypergen.storage.file_names import MANIFEST
from hypergen.storage.held_folders import check_held
from hypergen.storage.manifest import build_manifest
from hypergen.storage.temporary_folder import leftovers_for, make_marked, remove, remove_marked

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)
TRANSIENT = (errno.EIO, errno.ESTALE)  # may be over in a moment, on a network disk
SECONDS_TO_RETRY = 1.0
WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.ENOENT, errno.EINVAL),
)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn disk errors into one line; a wrong place is bad input, a full disk is not.

    Raises:
        DiskError: the disk is full or broken, below the file that the error names or else below `folder`.
        InputError: there is no such place, or nothing can be written there.
    """
    try:
        yield
    except Exception as error:
        number = _disk_number(error)
        where = getattr(error, "filename", None) or folder
        if number in FULL:
            message = f"{where}: {os.strerror(number)}; what was there before is untouched"
            raise DiskError(message + _free_space(folder)) from error
        if number in WRONG_PLACE:
            raise InputError(f"{where}: {os.strerror(number)}") from error
        raise


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start work whose files would not fit.

    Raises:
        DiskError: fewer than `needed` bytes are free where the folder is.
    """
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(f"{folder}: {needed:,} bytes are needed for checkpoints and the result, {free:,} are free")


def bytes_in(folder: Path) -> int:
    """Sum the sizes of the files below a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free_space(folder: Path) -> str:
    """Say how much is left on the disk of the nearest folder that exists."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return f"; {shutil.disk_usage(existing).free:,} bytes are free" if existing else ""


def retry_once(write: Callable[[], object]) -> None:
    """Run `write`; after a transient disk error wait, and run it once more."""
    try:
        write()
    except Exception as error:
        if (number := _disk_number(error)) not in TRANSIENT:
            raise
        warn(f"{os.strerror(number)}; trying once more")
        time.sleep(SECONDS_TO_RETRY)
        write()


def _disk_number(error: Exception) -> int:
    """Find the `errno` of a failure, 0 where there is none; safetensors and tokenizers tell theirs only in words."""
    if isinstance(error, OSError):
        return error.errno or 0
    words = re.search(r"\(os error (\d+)\)", str(error))
    return int(words[1]) if words else 0


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make or replace one file through a temporary one of the same name."""

    def attempt() -> None:
        with temporary_folder(path.parent, path.name) as temporary:
            content = temporary / path.name
            write(content)
            flush(content)
            check_held(path.parent)
            os.replace(content, path)
            flush(path.parent)

    with disk_errors(path):
        retry_once(attempt)


def publish(folder: Path, write: Callable[[Path], object]) -> None:
    """Make or replace `folder` with what `write` puts into a temporary folder."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent, folder.name) as temporary:
        content, former = temporary / "content", temporary / "former"

        def move() -> None:
            if folder.exists() and content.exists():
                os.replace(folder, former)
            if content.exists():
                os.replace(content, folder)
            flush(folder.parent)

        write_whole(content, write)
        check_held(folder.parent)
        try:
            with disk_errors(folder):
                retry_once(move)
        finally:
            if former.exists() and not folder.exists():
                os.replace(former, folder)


@contextmanager
def temporary_folder(parent: Path, target: str) -> Iterator[Path]:
    """Make a temporary folder beside what will be called `target`; at the end it is removed with what is left in it.

    Raises:
        DiskError: `parent` is in a folder that is not the one that was locked, or the disk is full.
    """
    made: list[Path] = []
    check_held(parent)
    try:
        with disk_errors(parent):
            retry_once(lambda: made.append(make_marked(parent, target)))
        yield made[-1]
    finally:
        for folder in made:
            remove_marked(folder)


def remove_leftovers(path: Path) -> None:
    """Remove what processes killed in `write_file` or `publish` left beside a path, which the caller has locked."""
    for leftover in list(leftovers_for(path)):
        remove_marked(leftover)


def write_whole(temporary: Path, write: Callable[[Path], object], *, label: str = "") -> None:
    """Fill a temporary folder, flush it, and write its manifest; on any failure remove it.

    Args:
        temporary: the folder.
        write: fills it.
        label: of the progress of the hashing; empty: none is shown.
    """

    def attempt() -> None:
        remove(temporary)
        temporary.mkdir(parents=True)
        write(temporary)
        for path in temporary.rglob("*"):
            path.chmod(0o777 & ~_umask() if path.is_dir() else 0o666 & ~_umask())
            flush(path)
        (temporary / MANIFEST).write_text(json.dumps(build_manifest(temporary, label=label), indent=1))
        flush(temporary / MANIFEST)
        flush(temporary)

    try:
        with disk_errors(temporary):
            retry_once(attempt)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Flush a file or folder to disk; some file systems cannot do so with a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def follow_umask(folder: Path) -> None:
    """Give safetensors files the modes of any other new file: the library makes them readable by their owner alone."""
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
