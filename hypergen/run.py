"""The run folder: who may write it, its metrics and checkpoints, and how it is finished.

A checkpoint counts only when its manifest holds; otherwise the one before it is taken. A folder with a manifest of its
own is a finished run. Weights and states are safetensors, everything else JSON.
Does not know: models, modalities, what a metric means, how a folder is published (`disk`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hypergen.disk import MANIFEST, check_manifest, disk_errors, publish, remove, sync, write_file, write_whole
from hypergen.errors import CheckpointError, InputError, LockedError
from hypergen.hyperfit import State
from hypergen.report_table import printable

METRICS, LOCK, RECORD = "metrics.jsonl", ".lock", "hypergen.json"
CHECKPOINTS_KEPT = 2


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
            with open(folder / LOCK) as handle:
                _own(folder, handle)
        content = {path.name for path in folder.iterdir() if path.name != LOCK} if folder.is_dir() else set()
    if content and not resume:
        raise InputError(f"--output {folder}: is not empty; name a new folder, or continue it with --resume")
    if MANIFEST in content:
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    if content and not {METRICS, "checkpoints"} & content:
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
                _own(folder, handle)
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


def _own(folder: Path, handle: IO[str]) -> None:
    """Take the lock of an open lock file."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        raise LockedError(f"{folder}: in use by {handle.read().strip() or 'another process'}") from error
    if os.fstat(handle.fileno()).st_nlink == 0:
        raise LockedError(f"{folder}: another run has ended here just now; start again")


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; refuse a folder that another one has just finished."""
    if (folder / MANIFEST).is_file():
        raise InputError(f"--output {folder}: holds a finished run; name a new folder")
    for leftover in (*folder.glob(".tmp-*"), *folder.glob("checkpoints/.tmp-*")):
        remove(leftover)


def log(folder: Path, record: dict[str, Any]) -> None:
    """Append one line to `metrics.jsonl`."""
    with disk_errors(folder), open(folder / METRICS, "a") as file:
        file.write(json.dumps(record) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of `metrics.jsonl`; a killed process may have left half of one."""
    path = folder / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def rewind_log(folder: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs: a training that goes on from there writes the others again."""
    if (folder / METRICS).is_file():
        kept = [json.dumps(row) + "\n" for row in read_log(folder) if row["epoch"] <= epochs]
        write_file(folder / METRICS, lambda temporary: temporary.write_text("".join(kept)))


def finish(folder: Path, write: Callable[[Path], None]) -> None:
    """Move what `write` makes into the run folder itself; the manifest goes last and covers the log."""

    def write_with_log(temporary: Path) -> None:
        write(temporary)
        if (folder / METRICS).is_file():
            shutil.copyfile(folder / METRICS, temporary / METRICS)

    temporary = folder / f".tmp-{os.getpid()}"
    write_whole(temporary, write_with_log)
    with disk_errors(folder):
        _move_content(temporary, folder)
        sync(folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _move_content(temporary: Path, folder: Path) -> None:
    """All of it or, on any failure, nothing."""
    moved: list[Path] = []
    try:
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == MANIFEST):
            target = folder / path.name
            if target.is_dir():  # from a process that was killed here
                shutil.rmtree(target)
            os.replace(path, target)
            moved.append(target)
        temporary.rmdir()
    except BaseException:
        for path in (temporary, *moved):
            if path.name != METRICS:  # which was there before
                remove(path)
        raise


def save_checkpoint(folder: Path, state: State, facts: dict[str, Any]) -> None:
    """Publish `checkpoints/step-N`, then remove older ones; `facts` must be equal when the run goes on."""

    def write(temporary: Path) -> None:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, temporary / "state.safetensors")
        numbers = {"step": state.step, "epoch_loss": state.epoch_loss, "facts": facts}
        (temporary / "state.json").write_text(json.dumps(numbers, indent=1))

    publish(folder / "checkpoints" / f"step-{state.step}", write)
    kept = [path for path in _checkpoints(folder) if _step(path) <= state.step][:CHECKPOINTS_KEPT]
    for path in _checkpoints(folder):
        if path not in kept:  # older, or later and damaged: this state came from an earlier one
            shutil.rmtree(path, ignore_errors=True)


def newest_state(folder: Path, facts: dict[str, Any]) -> State | None:
    """The newest whole checkpoint; None when the folder has none at all.

    Raises:
        CheckpointError: there are checkpoints and none is whole.
        InputError: the run was started with other options.
    """
    checkpoints = _checkpoints(folder)
    for checkpoint in checkpoints:
        try:
            state, stored = _read_checkpoint(checkpoint)
        except CheckpointError as error:
            print(f"hypergen: skipping a damaged checkpoint: {printable(str(error))}", file=sys.stderr)
            continue
        _check_facts(folder, stored, facts)
        return state
    if checkpoints:
        raise CheckpointError(f"{folder}: none of its {len(checkpoints)} checkpoints is whole")
    return None


def _read_checkpoint(checkpoint: Path) -> tuple[State, dict[str, Any]]:
    check_manifest(checkpoint)
    try:
        numbers = json.loads((checkpoint / "state.json").read_text())
        tensors = load_file(checkpoint / "state.safetensors")
        state = State(step=numbers["step"], epoch_loss=numbers["epoch_loss"], tensors=tensors)
        return state, dict(numbers["facts"])
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: is not a checkpoint of hypergen") from error


def _check_facts(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in json.loads(json.dumps(asked)).items():
        if stored.get(name) != value:
            raise InputError(f"--resume: {folder} was started with {name} {stored.get(name)}, not {value}")


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdecimal()]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name[5:])
