"""Writing that a reader sees whole or not at all, and what a disk refuses in one line.

Everything is written into a temporary folder or file, flushed to disk, listed with SHA-256 in `manifest.json` (folders;
written last), and renamed into place. File modes follow the umask. What a network disk refuses for a moment is tried
once more.
Does not know: what is written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypergen.errors import CheckpointError, DiskError, InputError

MANIFEST, TEMPORARY = "manifest.json", ".tmp-"
FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)
PASSING = (errno.EIO, errno.ESTALE)  # may be over in a moment, on a network disk
SECONDS_TO_RETRY = 1.0
WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.ENOENT, errno.EINVAL),
)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses into one line; a wrong place is bad input, a full disk is not."""
    try:
        yield
    except Exception as error:
        number = _disk_number(error)
        where = getattr(error, "filename", None) or folder
        if number in FULL:
            told = f"{where}: {os.strerror(number)}; what was there before is untouched"
            raise DiskError(told + _free(folder)) from error
        if number in WRONG_PLACE:
            raise InputError(f"{where}: {os.strerror(number)}") from error
        raise


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start what would not fit.

    Raises:
        DiskError: fewer than `needed` bytes are free where the folder is.
    """
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(f"{folder}: {needed:,} bytes are needed for checkpoints and the result, {free:,} are free")


def bytes_in(folder: Path) -> int:
    """What the files below a folder take; nothing where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free(folder: Path) -> str:
    """How much is left on the disk of the nearest folder that exists."""
    place = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return f"; {shutil.disk_usage(place).free:,} bytes are free" if place else ""


def twice(write: Callable[[], object]) -> None:
    """Once more, after a moment, where the disk may have recovered."""
    try:
        write()
    except Exception as error:
        if (number := _disk_number(error)) not in PASSING:
            raise
        print(f"hypergen: {os.strerror(number)}; trying once more", file=sys.stderr)
        time.sleep(SECONDS_TO_RETRY)
        write()


def _disk_number(error: Exception) -> int:
    """The `errno` of a failure; safetensors and tokenizers tell theirs only in words."""
    if isinstance(error, OSError):
        return error.errno or 0
    words = re.search(r"\(os error (\d+)\)", str(error))
    return int(words[1]) if words else 0


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make or replace one file through a temporary one beside it, which has the same suffix."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")

    def attempt() -> None:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)

    try:
        with disk_errors(path):
            twice(attempt)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(folder: Path, write: Callable[[Path], object]) -> None:
    """Make `folder`, new or replaced, from what `write` puts into a temporary folder beside it."""
    temporary, former = (folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}{part}") for part in ("", "-former"))

    def move() -> None:
        if folder.exists() and temporary.exists():
            os.replace(folder, former)
        if temporary.exists():
            os.replace(temporary, folder)
        sync(folder.parent)

    write_whole(temporary, write)
    try:
        with disk_errors(folder):
            twice(move)
    finally:
        if former.exists() and not folder.exists():
            os.replace(former, folder)
        remove(temporary)  # is there only after a failure
        remove(former)


def remove_leftovers(path: Path) -> None:
    """What processes that were killed in `write_file` or `publish` left beside; only for who owns the path alone."""
    name = re.escape(path.name)
    pattern = re.compile(rf"{re.escape(TEMPORARY)}(\d+-{name}|{name}-\d+(-former)?)")
    for leftover in path.parent.glob(f"{TEMPORARY}*"):
        if pattern.fullmatch(leftover.name):
            remove(leftover)


def write_whole(temporary: Path, write: Callable[[Path], object]) -> None:
    """Fill a temporary folder, flush it, and write its manifest; on any failure nothing of it stays."""

    def attempt() -> None:
        remove(temporary)
        temporary.mkdir(parents=True)
        write(temporary)
        for path in temporary.rglob("*"):
            path.chmod(0o777 & ~_umask() if path.is_dir() else 0o666 & ~_umask())
            sync(path)
        (temporary / MANIFEST).write_text(json.dumps(_manifest(temporary), indent=1))
        sync(temporary / MANIFEST)
        sync(temporary)

    try:
        with disk_errors(temporary):
            twice(attempt)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _manifest(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
    return {"format": FORMAT, "files": names}


def check_manifest(folder: Path) -> set[str]:
    """Compare every file that the manifest lists; their names.

    Raises:
        CheckpointError: the manifest is missing or unreadable, or a file differs from it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: format {manifest['format']}, this version reads {FORMAT}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: missing or not readable") from error
    for name, (size, digest) in listed.items():
        if not _is_as_listed(folder / name, size, digest):
            raise CheckpointError(f"{folder / name}: missing, or its content is not what the manifest says")
    return set(listed)


def _is_as_listed(path: Path, size: object, digest: object) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size and _digest(path) == digest
    except OSError:  # the disk does not give it
        return False


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
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
    """safetensors creates files that only their owner can read; give them the modes any new file would have."""
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
