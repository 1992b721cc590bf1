"""Journal the completions of a long job, so that a stopped one continues with those that are missing.

Beside the output lies `OUTPUT.unfinished`, JSON lines: first a digest of everything that the completions depend on,
then one line for each decoded batch. It is removed when the output is written. Complete batches are kept, so a
continued job decodes the same batches as an uninterrupted one and ends in the same ids; on another machine it warns of
the differences and goes on.
Does not know what a token means.

Shape letters: B batch, S completion.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.runtime.devices import warn_about_changes
from hypergen.storage.atomic import disk_errors, remove_leftovers
from hypergen.storage.file_names import MANIFEST, UNFINISHED
from hypergen.storage.lock import take_lock

BatchStore = Callable[[list[int], Callable[[], Tensor]], Tensor]  # rows of a batch, how to decode them -> (B, S) ids


@contextmanager
def open_journal(
    output: Path | None, model: Path, options: dict[str, Any], rows: list[Tensor], machine: dict[str, Any]
) -> Iterator[BatchStore]:
    """Open the journal of a job, as a store that decodes a batch unless an earlier process has.

    `with open_journal(...) as batch_store: ids = batch_store(batch, decode)`

    Args:
        output: the file or folder that the job will write; without one, nothing is kept.
        model: folder, file, name or hub id that the completions depend on.
        options: JSON values that they depend on.
        rows: the prompts.
        machine: the parts of a machine that their last bits depend on; differences are warned of.

    Raises:
        InputError: the file holds completions of something else.
        LockedError: another process has locked it.
    """
    if output is None:
        yield no_store
        return
    path = output.with_name(f"{output.name}{UNFINISHED}")
    # 1. Open the file, and keep other processes out of it.
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), open(path, "a+", errors="replace") as file:
        take_lock(path, file)
        remove_leftovers(output)
        # 2. Read what earlier processes have decoded.
        head = {"of": _digest(model, options, rows), "machine": machine}
        done = _read(path, file, head)

        def store(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
            if tuple(batch) in done:
                return done[tuple(batch)]
            ids = decode()
            line = json.dumps({"rows": batch, "ids": ids.tolist()}) + "\n"
            _append(file, line if os.fstat(file.fileno()).st_size else json.dumps(head) + "\n" + line)
            return ids

        # 3. Decode; the file is removed when the output is there, can never be, or nothing has been decoded.
        try:
            yield store
        except InputError:  # the output cannot be as asked for
            path.unlink()
            raise
        except BaseException:
            if not path.stat().st_size:
                path.unlink()
            raise
        path.unlink()


def no_store(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
    """Decode a batch and remember nothing."""
    return decode()


def _read(path: Path, file: IO[str], head: dict[str, Any]) -> dict[tuple[int, ...], Tensor]:
    """Read the batches of earlier processes; half a line, left by a killed one, is cut off."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    if f"{json.dumps(head)}\n".startswith("".join(lines)):  # nothing yet, or a process was killed at once
        file.truncate(0)
        return {}
    if not lines[-1].endswith("\n"):
        lines.pop()
    try:
        first, *batches = map(json.loads, lines)
        done = {tuple(batch["rows"]): torch.tensor(batch["ids"], dtype=torch.long) for batch in batches}
        is_ours, former = first["of"] == head["of"], dict(first["machine"])
    except (ValueError, TypeError, LookupError, RecursionError):  # no lines as well
        is_ours = False
    if not is_ours:
        raise InputError(f"{path}: holds completions of another model, options or prompts; remove it to start anew")
    warn_about_changes(str(path), former, head["machine"])
    file.truncate(sum(map(len, lines)))  # JSON is ASCII here: as many bytes
    return done


def _append(file: IO[str], text: str) -> None:
    """Write all of a text to the disk, or nothing."""
    size = os.fstat(file.fileno()).st_size
    try:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def _digest(model: Path, options: dict[str, Any], rows: list[Tensor]) -> str:
    prompts = [row.tolist() for row in rows]
    return hashlib.sha256(json.dumps([_identity(model), options, prompts]).encode()).hexdigest()


def _identity(model: Path) -> Any:
    """Identify a model: a run by its manifest, else by the names, sizes and times of change of its files."""
    if (model / MANIFEST).is_file():
        return (model / MANIFEST).read_text()
    files = [model] if model.is_file() else []
    files += sorted(path for path in model.glob("*") if path.suffix in (".safetensors", ".json"))
    return [str(model), [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]]
