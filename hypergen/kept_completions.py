"""Completions of a long job kept as they come, so that a stopped one continues with those that are missing.

Beside the output lies `OUTPUT.unfinished`, JSON lines: what the completions depend on, then one line a decoded batch.
It goes when the output is written. Whole batches are kept, so a continued job decodes the same batches as an
uninterrupted one and ends in the same ids; on another machine it says what differs and goes on.
Does not know: models, strategies, what is written in the end.

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

from hypergen.checkpoints import tell_changes
from hypergen.disk import MANIFEST, disk_errors, remove_leftovers
from hypergen.errors import InputError
from hypergen.run import own

Keep = Callable[[list[int], Callable[[], Tensor]], Tensor]  # rows of a batch, how to decode them -> (B, S) ids


@contextmanager
def kept(
    output: Path | None, model: Path, options: dict[str, Any], rows: list[Tensor], machine: dict[str, Any]
) -> Iterator[Keep]:
    """`with kept(...) as keep: ids = keep(batch, decode)`; without an output nothing is kept.

    Args:
        model, options, rows: what the completions depend on: a folder or hub id, JSON values, the prompts.
        machine: of what their last bits depend on; told when it differs.

    Raises:
        InputError: the file holds completions of something else.
        LockedError: another process is at it.
    """
    if output is None:
        yield decode_all
        return
    path = output.with_name(f"{output.name}.unfinished")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), open(path, "a+", errors="replace") as file:
        own(path, file)
        remove_leftovers(output)
        head = {"of": _digest(model, options, rows), "machine": machine}
        done = _read(path, file, head)

        def keep(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
            if tuple(batch) in done:
                return done[tuple(batch)]
            ids = decode()
            line = json.dumps({"rows": batch, "ids": ids.tolist()}) + "\n"
            _append(file, line if os.fstat(file.fileno()).st_size else json.dumps(head) + "\n" + line)
            return ids

        try:
            yield keep
        except InputError:  # the output cannot be as asked for
            path.unlink()
            raise
        except BaseException:
            if not path.stat().st_size:
                path.unlink()
            raise
        path.unlink()


def decode_all(batch: list[int], decode: Callable[[], Tensor]) -> Tensor:
    """Remember nothing."""
    return decode()


def _read(path: Path, file: IO[str], head: dict[str, Any]) -> dict[tuple[int, ...], Tensor]:
    """The batches of earlier processes; half a line, left by a killed one, is cut off."""
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
    tell_changes(str(path), former, head["machine"])
    file.truncate(sum(map(len, lines)))  # JSON is ASCII here: as many bytes
    return done


def _append(file: IO[str], text: str) -> None:
    """All of it, on the disk, or nothing."""
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
    return hashlib.sha256(json.dumps([_version(model), options, prompts]).encode()).hexdigest()


def _version(model: Path) -> Any:
    """A run says by its manifest which it is, another folder by its files."""
    if (model / MANIFEST).is_file():
        return (model / MANIFEST).read_text()
    files = sorted(path for path in model.glob("*") if path.suffix in (".safetensors", ".json"))
    return [str(model), [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]]
