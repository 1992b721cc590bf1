"""The run folder: who may write it, checkpoints, metrics, and publication that a reader sees whole or not at all.

Everything is written into a temporary folder, flushed to disk, listed with SHA-256 in `manifest.json` (written last),
and renamed into place. A checkpoint counts only when its manifest holds; otherwise the one before it is taken.
Weights and states are safetensors, everything else JSON.
Does not know: models, modalities, what a metric means.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from hypergen.errors import CheckpointError, DiskError, InputError, LockedError
from hypergen.hyperfit import State

MANIFEST, METRICS, LOCK, RECORD = "manifest.json", "metrics.jsonl", ".lock", "hypergen.json"
CHECKPOINTS_KEPT = 2
FORMAT = 1


def check_output(folder: Path, resume: bool) -> None:
    """Refuse a folder that a run must not write into.

    Raises:
        InputError: it is a file, or it has content and `resume` is off.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file; a new or empty folder is needed")
    content = [path.name for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    if content and not resume:
        raise InputError(f"--output {folder}: is not empty; name a new folder, or continue it with --resume")
    if content and (folder / MANIFEST).is_file():
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    if content and not {METRICS, "checkpoints"} & set(content):
        raise InputError(f"--resume: --output {folder} is not a run of hypergen")


def free_output(modality: str) -> Path:
    """The next free `runs/MODALITY-N` below the working folder."""
    number = 1
    while (folder := Path("runs") / f"{modality}-{number}").exists():
        number += 1
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own the folder while the process lives; the kernel lets go of it however the process ends.

    Raises:
        LockedError: another process owns it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+")  # noqa: SIM115 (held until the run ends)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise LockedError(f"{folder}: in use by {handle.read().strip() or 'another process'}") from error
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
        (folder / LOCK).unlink(missing_ok=True)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses into one line; a wrong place is bad input, a full disk is not."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG):
            raise DiskError(f"{where}: {os.strerror(error.errno)}; what was there before is untouched") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            raise InputError(f"{where}: {os.strerror(error.errno)}") from error
        raise


def log(folder: Path, record: dict[str, Any]) -> None:
    """Append one line to `metrics.jsonl`."""
    with disk_errors(folder), open(folder / METRICS, "a") as file:
        file.write(json.dumps(record) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Make `folder`, new or replaced, from what `write` puts into a temporary folder beside it."""
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    _write_whole(temporary, write)
    with disk_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
        _sync(folder.parent)


def finish(folder: Path, write: Callable[[Path], None]) -> None:
    """Move what `write` makes into the run folder itself; the manifest goes last and covers the log."""
    temporary = folder / f".tmp-{os.getpid()}"
    _write_whole(temporary, write)
    with disk_errors(folder):
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == MANIFEST):
            os.replace(path, folder / path.name)
        temporary.rmdir()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        _sync(folder)


def _write_whole(temporary: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder, flush it, and write its manifest; on any failure nothing of it stays."""
    try:
        with disk_errors(temporary):
            temporary.mkdir(parents=True)
            write(temporary)
            (temporary / MANIFEST).write_text(json.dumps(_manifest(temporary), indent=1))
            for path in temporary.rglob("*"):
                path.chmod(0o777 & ~_umask() if path.is_dir() else 0o666 & ~_umask())
                _sync(path)
            _sync(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _manifest(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
    return {"format": FORMAT, "files": names}


def check_manifest(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: the manifest is missing or unreadable, or a file differs from it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        listed = dict(manifest["files"])
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: format {manifest['format']}, this version reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: missing or not readable") from error
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or _digest(path) != entry["sha256"]:
            raise CheckpointError(f"{path}: missing, or its content is not what the manifest says")


def save_checkpoint(folder: Path, state: State, facts: dict[str, Any]) -> None:
    """Publish `checkpoints/step-N`, then remove older ones; `facts` must be equal when the run goes on."""

    def write(temporary: Path) -> None:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, temporary / "state.safetensors")
        numbers = {"step": state.step, "epoch_loss": state.epoch_loss, "facts": facts}
        (temporary / "state.json").write_text(json.dumps(numbers, indent=1))

    publish(folder / "checkpoints" / f"step-{state.step}", write)
    for old in _checkpoints(folder)[CHECKPOINTS_KEPT:]:
        shutil.rmtree(old)


def newest_state(folder: Path, facts: dict[str, Any]) -> State | None:
    """The newest whole checkpoint; None when the folder has none at all.

    Raises:
        CheckpointError: there are checkpoints and none is whole.
        InputError: the run was started with other options.
    """
    checkpoints = _checkpoints(folder)
    for checkpoint in checkpoints:
        try:
            check_manifest(checkpoint)
        except CheckpointError as error:
            print(f"hypergen: skipping a damaged checkpoint: {error}", file=sys.stderr)
            continue
        numbers = json.loads((checkpoint / "state.json").read_text())
        _check_facts(folder, numbers["facts"], facts)
        tensors = load_file(checkpoint / "state.safetensors")
        return State(step=numbers["step"], epoch_loss=numbers["epoch_loss"], tensors=tensors)
    if checkpoints:
        raise CheckpointError(f"{folder}: none of its {len(checkpoints)} checkpoints is whole")
    return None


def _check_facts(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in json.loads(json.dumps(asked)).items():
        if stored.get(name) != value:
            raise InputError(f"--resume: {folder} was started with {name} {stored.get(name)}, not {value}")


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: -int(path.name[5:]))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
