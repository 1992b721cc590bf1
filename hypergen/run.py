"""The run folder: who may write it, its metrics, and how it is finished.

A folder with a manifest of its own is a finished run; before that nobody reads it as a model.
Does not know: models, modalities, what a metric means, how a folder is published (`disk`), states (`checkpoints`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from hypergen.disk import MANIFEST, TEMPORARY, disk_errors, remove, sync, twice, write_file, write_whole
from hypergen.errors import InputError, LockedError

METRICS, LOCK, RECORD, CHECKPOINTS = "metrics.jsonl", ".lock", "hypergen.json", "checkpoints"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def check_output(folder: Path, resume: bool) -> None:
    """Refuse a folder that a run must not write into.

    Raises:
        InputError: it is a file, or it has content and `resume` is off.
        LockedError: another process writes into it.
    """
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--output {folder}: is a file; a new or empty folder is needed")
        if (folder / LOCK).is_file():
            with open(folder / LOCK, "r+") as handle:  # NFS locks only what may be written
                own(folder, handle)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    content = {name for name in names if name != LOCK and not name.startswith(TEMPORARY)}  # what a killed one left
    if content and not resume:
        raise InputError(f"--output {folder}: is not empty; name a new folder, or continue it with --resume")
    if MANIFEST in content:
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    if content and not {METRICS, CHECKPOINTS} & content:
        raise InputError(f"--resume: --output {folder} is not a run of hypergen")


def check_finished(folder: Path) -> None:
    """Refuse to read a run that is still being written or was stopped: a part of it may look like a model.

    Raises:
        InputError: it is one.
    """
    with disk_errors(folder):
        is_started = (folder / LOCK).is_file() or (folder / CHECKPOINTS).is_dir()
        if is_started and not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: is an unfinished run; wait for it, or continue it with --resume")


def free_output(modality: str) -> Path:
    """The next free `runs/MODALITY-N` below the working folder."""
    number = 1
    while (folder := Path("runs") / f"{modality}-{number}").exists():
        number += 1
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own the folder while the process lives; the kernel lets go of it however the process ends.

    Folders made for this go again at the end when nothing has been written into them.

    Raises:
        LockedError: another process owns it.
        InputError: another process has finished a run in it.
    """
    with disk_errors(folder):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+")  # noqa: SIM115 (held until the run ends)
    try:
        with handle:
            with disk_errors(folder):
                try:
                    own(folder, handle)
                except InputError:  # nobody can own it
                    (folder / LOCK).unlink()
                    raise
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                handle.flush()
            try:
                _sweep(folder)
                yield
            finally:
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def own(path: Path, handle: IO[str]) -> None:
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
        told = f"its file system has no locks ({error.strerror}), so two runs could spoil each other"
        raise InputError(f"{path}: {told}; name a folder on another one") from error
    if os.fstat(handle.fileno()).st_nlink == 0:
        raise LockedError(f"{path}: another run has ended here just now; start again")


def _owner(handle: IO[str]) -> str:
    """What the owner wrote into the lock file, which it may be about to do."""
    for _ in range(20):
        handle.seek(0)
        if name := handle.readline().strip():
            return name
        time.sleep(0.05)
    return "another process"


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; refuse a folder that another one has just finished."""
    if (folder / MANIFEST).is_file():
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    for leftover in (*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"{CHECKPOINTS}/**/{TEMPORARY}*")):
        remove(leftover)


def log(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    _write_log(folder, [*read_log(folder), record])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("epoch"), int)]


def rewind_log(folder: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs: a training that goes on from there writes the others again."""
    if (folder / METRICS).is_file():
        _write_log(folder, [row for row in read_log(folder) if row["epoch"] <= epochs])


def _write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_file(folder / METRICS, lambda temporary: temporary.write_text(lines))


def finish(folder: Path, write: Callable[[Path], None]) -> None:
    """Move what `write` makes into the run folder itself; the manifest goes last and covers the log."""

    def write_with_log(temporary: Path) -> None:
        write(temporary)
        if (folder / METRICS).is_file():
            shutil.copyfile(folder / METRICS, temporary / METRICS)

    temporary = folder / f"{TEMPORARY}{os.getpid()}"
    write_whole(temporary, write_with_log)
    with disk_errors(folder):
        _move_content(temporary, folder)
        sync(folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _move_content(temporary: Path, folder: Path) -> None:
    """All of it or, on any failure, nothing."""
    moved: list[Path] = []
    try:
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == MANIFEST):
            target = folder / path.name
            if path.name == MANIFEST:  # which says that all the others are there
                sync(folder)
            if target.is_dir():  # from a process that was killed here
                shutil.rmtree(target)
            twice(partial(os.replace, path, target))
            moved.append(target)
        temporary.rmdir()
    except BaseException:
        for path in (temporary, *moved):
            if path.name != METRICS:  # which was there before
                remove(path)
        raise
