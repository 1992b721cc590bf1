"""Journal the completions of a long job, so that a stopped one continues with those that are missing.

Beside the output lies `OUTPUT.unfinished`, JSON lines: first a digest of everything that the completions depend on,
then one line for each decoded batch, with a checksum. It is removed when the output is written, and by nothing else;
a line that is damaged is decoded again. Complete batches are kept, so a continued job decodes the same batches as an
uninterrupted one and ends in the same ids; on another machine it warns of the differences and goes on.
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
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.runtime.console import warn
from hypergen.runtime.devices import warn_about_changes
from hypergen.storage.atomic import disk_errors, remove_leftovers
from hypergen.storage.file_names import MANIFEST, UNFINISHED
from hypergen.storage.lock import take_lock
from hypergen.storage.own_file import open_own, write_all

CHECKSUM = "sha256"  # of a line
BatchStore = Callable[[list[int], Callable[[], Tensor]], Tensor]  # rows of a batch, how to decode them -> (B, S) ids


@contextmanager
def open_journal(
    output: Path | None,
    model: Path,
    options: dict[str, Any],
    rows: list[Tensor],
    machine: dict[str, Any],
    *,
    num_tokens: int = 2**31,
) -> Iterator[BatchStore]:
    """Open the journal of a job, as a store that decodes a batch unless an earlier process has.

    `with open_journal(...) as batch_store: ids = batch_store(batch, decode)`

    Args:
        output: the file or folder that the job will write; without one, nothing is kept.
        model: folder, file, name or hub id that the completions depend on.
        options: JSON values that they depend on.
        rows: the prompts.
        machine: the parts of a machine that their last bits depend on; differences are warned of.
        num_tokens: ids of the model, which all are below this.

    Raises:
        InputError: the file holds completions of something else, or is a link.
        LockedError: another process has locked it.
    """
    if output is None:
        yield no_store
        return
    path = output.with_name(f"{output.name}{UNFINISHED}")
    # 1. Open the file, and keep other processes out of it.
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), open_own(path) as file:
        take_lock(path, file)
        remove_leftovers(output)
        # 2. Read what earlier processes have decoded.
        head = {"of": _digest(model, options, rows), "machine": machine}
        done = _read(path, file, head, [len(rows), num_tokens])

        def store(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
            if tuple(batch) in done:
                return done[tuple(batch)]
            ids = decode()
            line = _line({"rows": batch, "ids": ids.tolist()})
            _append(file, line if os.fstat(file.fileno()).st_size else _line(head) + line)
            return ids

        # 3. Decode; the file is removed when the output is there, or nothing has been decoded.
        try:
            yield store
        except BaseException:
            if not path.stat().st_size:
                path.unlink()
            raise
        path.unlink()


def no_store(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
    """Decode a batch and remember nothing."""
    return decode()


def _read(path: Path, file: BinaryIO, head: dict[str, Any], limits: list[int]) -> dict[tuple[int, ...], Tensor]:
    """Read the batches of earlier processes; half a line, left by a killed one or a full disk, is cut off."""
    file.seek(0)
    content = file.read()
    if _line(head).startswith(content):  # nothing yet, or a process was killed at once
        file.truncate(0)
        return {}
    first, *lines = content[: content.rfind(b"\n") + 1].splitlines() or [b""]
    started = _checked(first)
    if started is None or started.get("of") != head["of"] or not isinstance(started.get("machine"), dict):
        raise InputError(f"{path}: holds completions of another model, options or prompts; remove it to start anew")
    warn_about_changes(str(path), started["machine"], head["machine"])
    file.truncate(content.rfind(b"\n") + 1)
    batches = [_batch(line, *limits) for line in lines]
    if num_damaged := batches.count(None):
        warn(f"{path}: {num_damaged} of {len(lines)} batches are damaged, and decoded again")
    return dict(batch for batch in batches if batch is not None)


def _batch(line: bytes, num_rows: int, num_tokens: int) -> tuple[tuple[int, ...], Tensor] | None:
    """Read the ids (B, S) of a batch, by its rows; None where the line is not as it was written, or nothing fits."""
    record = _checked(line) or {}
    rows, ids = record.get("rows"), record.get("ids")
    if not (_are_numbers(rows, num_rows) and isinstance(ids, list) and 0 < len(ids) == len(rows)):
        return None
    if not all(_are_numbers(row, num_tokens) and len(row) == len(ids[0]) for row in ids):
        return None
    return tuple(rows), torch.tensor(ids, dtype=torch.long)


def _are_numbers(values: Any, end: int) -> TypeGuard[list[int]]:
    """Tell whether this is a list of whole numbers from 0 to below `end`."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < end for value in values)


def _line(record: dict[str, Any]) -> bytes:
    """Make a line of a record: JSON with a checksum of the rest as its last member."""
    text = json.dumps(record)
    return f'{text[:-1]}, "{CHECKSUM}": "{_sum(text)}"}}\n'.encode()


def _checked(line: bytes) -> dict[str, Any] | None:
    """Read the record of a line; None where its checksum does not hold."""
    try:
        return _agreeing(json.loads(line))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _agreeing(record: dict[str, Any]) -> dict[str, Any] | None:
    return record if record.pop(CHECKSUM) == _sum(json.dumps(record)) else None


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _append(file: BinaryIO, line: bytes) -> None:
    """Write all of a line to the disk, or nothing."""
    size = os.fstat(file.fileno()).st_size
    try:
        write_all(file, line)
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
