"""Check whether a run folder may be written or read, and finish it.

A folder with a manifest of its own is a finished run; before that nobody reads it as a model, because a part of it may
look like one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hypergen.errors import InputError
from hypergen.storage.atomic import disk_errors, flush, remove, retry_once, write_file, write_whole
from hypergen.storage.file_names import CHECKPOINTS, LOCK, MANIFEST, METRICS, TEMPORARY, TOKENS
from hypergen.storage.lock import take_lock
from hypergen.storage.manifest import list_files
from hypergen.storage.strict_json import read_optional


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
                take_lock(folder, handle)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    content = {name for name in names if name != LOCK and not name.startswith(TEMPORARY)}  # what a killed one left
    if content and not resume:
        raise InputError(f"--output {folder}: is not empty; name a new folder, or continue it with --resume")
    if MANIFEST in content:
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    if content and not {METRICS, CHECKPOINTS} & content:
        raise InputError(f"--resume: --output {folder} is not a run of hypergen")


def check_finished(folder: Path) -> None:
    """Refuse to read a run that is still being written or was stopped.

    Raises:
        InputError: the folder is such a run.
    """
    with disk_errors(folder):
        is_started = (folder / LOCK).is_file() or (folder / CHECKPOINTS).is_dir()
        if is_started and not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: is an unfinished run; wait for it, or continue it with --resume")


def stored_file(folder: Path, name: str, hint: str = "") -> Path:
    """Find a file that only a hyperfitted run has.

    Raises:
        InputError: it is not there; the message ends with `hint`.
    """
    with disk_errors(folder):
        if not (folder / name).is_file():
            where = f"{folder / name}: not there" if folder.exists() else f"{folder}: no such folder"
            raise InputError(f"{where}; only a hyperfitted run has it{hint}")
    return folder / name


def num_stored(folder: Path, name: str, hint: str = "") -> int:
    """Count stored sequences by the head of their file, without torch.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = stored_file(folder, name, hint)
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice(TOKENS).get_shape()[0])
    except (OSError, LookupError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def free_output(modality: str) -> Path:
    """Find the next free `runs/MODALITY-N` below the working folder."""
    number = 1
    while (folder := Path("runs") / f"{modality}-{number}").exists():
        number += 1
    return folder


def finish(folder: Path, write: Callable[[Path], None]) -> None:
    """Publish the files that `write` makes in the run folder itself; the manifest goes last and covers the log.

    Until the manifest is there, any failure leaves the run as it was, to be continued.
    """

    def write_with_log(temporary: Path) -> None:
        write(temporary)
        if (folder / METRICS).is_file():
            shutil.copyfile(folder / METRICS, temporary / METRICS)

    temporary = folder / f"{TEMPORARY}{os.getpid()}"
    write_whole(temporary, write_with_log, label="hash the run (MB)")
    with disk_errors(folder):
        _move_content(temporary, folder)
        flush(folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def renew(folder: Path, names: Iterable[str]) -> None:
    """List files anew that somebody changed or added on purpose, so that they hold; a folder without manifest stays.

    Raises:
        InputError: the manifest cannot be read.
    """
    manifest = read_optional(folder / MANIFEST)
    if manifest is None:
        return
    if not isinstance(manifest.get("files"), dict):
        raise InputError(f"{folder / MANIFEST}: 'files' must be an object")
    with disk_errors(folder):
        manifest["files"] |= list_files(folder, [folder / name for name in names])
    write_file(folder / MANIFEST, lambda temporary: temporary.write_text(json.dumps(manifest, indent=1)))


def _move_content(temporary: Path, folder: Path) -> None:
    """Move every file and folder or, on any failure, none."""
    moved: list[Path] = []
    try:
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == MANIFEST):
            target = folder / path.name
            if path.name == MANIFEST:  # which says that all the others are there
                flush(folder)
            if target.is_dir():  # from a process that was killed here
                shutil.rmtree(target)
            retry_once(partial(os.replace, path, target))
            moved.append(target)
        temporary.rmdir()
    except BaseException:
        for path in (temporary, *moved):
            if path.name != METRICS:  # which was there before
                remove(path)
        raise
