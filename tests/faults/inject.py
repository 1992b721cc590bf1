"""Faults at the n-th use of the disk: the process is killed there, or the disk refuses.

Every opening for writing, write, flush to disk, rename, new folder and removal is a point. `install(Fault(...))` counts
them in this process and strikes at one. A write is torn: half of it has reached the file when the fault strikes.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

WRITING = ("open", "write", "weights", "fsync", "replace", "mkdir")  # what needs room on the disk


@dataclass
class Fault:
    kind: str
    """`count`, `kill`, `stop` (until SIGCONT), or the name of an error number, such as `ENOSPC`."""
    at: int = 0
    """Point, from 1 on."""
    only: tuple[str, ...] = ()
    """Names of points that count; empty: all."""
    below: str = ""
    """Only paths that contain this."""
    seen: int = 0

    def is_due(self, name: str, where: Any) -> bool:
        if (self.only and name not in self.only) or self.below not in str(where):
            return False
        self.seen += 1
        return self.seen == self.at

    def strike(self, where: Any) -> None:
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number), str(where))


def install(fault: Fault) -> None:
    """Strike in this process from now on."""
    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir", "chmod"):
        setattr(os, name, _before(name, getattr(os, name), fault))
    io.open = builtins.open = _opening(builtins.open, fault)
    safetensors.torch.serialize_file = _torn_file("weights", safetensors.torch.serialize_file, fault, 1)
    torch.save = _torn_file("weights", torch.save, fault, 1)


def _before(name: str, real: Callable[..., Any], fault: Fault) -> Callable[..., Any]:
    def use(target: Any, *arguments: Any, **options: Any) -> Any:
        where = _path_of(target)
        is_there = name == "mkdir" and os.path.isdir(where)  # which the system says before anything else
        if not is_there and fault.is_due(name, where):
            fault.strike(where)
        return real(target, *arguments, **options)

    return use


def _path_of(target: Any) -> Any:
    if not isinstance(target, int):
        return target
    try:
        return os.readlink(f"/proc/self/fd/{target}")
    except OSError:
        return target


def _opening(real: Callable[..., Any], fault: Fault) -> Callable[..., Any]:
    def use(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return real(file, mode, *arguments, **options)
        if fault.is_due("open", file):
            fault.strike(file)
        return _Written(real(file, mode, *arguments, **options), file, fault)

    return use


class _Written:
    """An open file whose writes are points."""

    def __init__(self, file: Any, path: Any, fault: Fault):
        self._file, self._path, self._fault = file, path, fault

    def write(self, content: Any) -> int:
        if self._fault.is_due("write", self._path):
            if self._fault.kind != "stop":
                self._file.write(content[: len(content) // 2])
                self._file.flush()
            self._fault.strike(self._path)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)


def _torn_file(name: str, real: Callable[..., Any], fault: Fault, place: int) -> Callable[..., Any]:
    """A writer that takes its path as argument number `place`."""

    def use(*arguments: Any, **options: Any) -> Any:
        path = arguments[place]
        if fault.is_due(name, path):
            real(*arguments, **options)
            os.truncate(path, os.path.getsize(path) // 2)
            try:
                fault.strike(path)
            except OSError as error:  # safetensors tells it in words only
                raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error
        return real(*arguments, **options)

    return use
