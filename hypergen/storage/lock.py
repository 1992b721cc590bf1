"""Lock a run folder for one process: two runs in one folder would spoil each other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hypergen.errors import InputError, LockedError
from hypergen.storage.atomic import disk_errors
from hypergen.storage.file_names import LOCK, MANIFEST
from hypergen.storage.held_folders import hold
from hypergen.storage.own_file import LONGEST_RECORD, is_record, open_own, process_record, write_all
from hypergen.storage.temporary_folder import leftovers_in, remove_marked

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
ATTEMPTS, SECONDS_BETWEEN = 20, 0.05  # to read who holds a lock


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder while the process lives; the kernel releases the lock however the process ends.

    Folders made for this are removed at the end when nothing has been written into them.

    Raises:
        LockedError: another process holds the lock.
        InputError: another process has finished a run in it.
    """
    # 1. Open the lock file, in a folder that may be new.
    with disk_errors(folder):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(folder):
            handle = open_lock(folder)
        with handle, hold(folder):
            # 2. Lock it, and tell others who holds the lock.
            with disk_errors(folder):
                try:
                    take_lock(folder, handle)
                except InputError:  # nobody can lock it
                    (folder / LOCK).unlink()
                    raise
                handle.truncate(0)
                write_all(handle, process_record().encode())
            # 3. Work; remove the lock file while the lock is still held.
            try:
                _sweep(folder)
                yield
            finally:
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(handle.fileno()), os.lstat(folder / LOCK)):  # not of another run
                        (folder / LOCK).unlink()
    finally:
        # 4. Remove the folders that stayed empty.
        with contextlib.suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made for this, once nobody else does; on a disk without locks, go on at once."""
    with disk_errors(path):
        handle = open_own(path)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def open_lock(folder: Path) -> BinaryIO:
    """Open the lock file of a folder, which is made where there is none; NFS locks only what may be written.

    Raises:
        InputError: what lies there was not written by hypergen.
    """
    handle = open_own(folder / LOCK)
    handle.seek(0)
    if not is_record(handle.read(LONGEST_RECORD + 1)):
        handle.close()
        raise InputError(f"{folder / LOCK}: is not a lock of hypergen; name another folder")
    return handle


def take_lock(path: Path, handle: BinaryIO) -> None:
    """Take the lock of an open file, for as long as it is open.

    Raises:
        LockedError: another process has it.
        InputError: there are no locks on this file system.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LockedError(f"{path}: in use by {_owner(handle)}") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        reason = f"its file system has no locks ({error.strerror}), so two runs could spoil each other"
        raise InputError(f"{path}: {reason}; name a folder on another one") from error
    if os.fstat(handle.fileno()).st_nlink == 0:
        raise LockedError(f"{path}: another run has ended here just now; start again")


def _owner(handle: BinaryIO) -> str:
    """Read who holds the lock from its file, which the holder may be about to write."""
    for _ in range(ATTEMPTS):
        handle.seek(0)
        if name := handle.readline().decode(errors="replace").strip():
            return name
        time.sleep(SECONDS_BETWEEN)
    return "another process"


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; refuse a folder that another one has just finished."""
    if (folder / MANIFEST).is_file():
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    for leftover in list(leftovers_in(folder)):
        remove_marked(leftover)
