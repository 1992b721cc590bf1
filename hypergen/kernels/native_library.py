"""Compile and load `native.cpp`: once a machine, by the C++ compiler there is, into the user's cache.

The name of the library holds two digests: of all that it is made from, so that a new version, compiler or processor
gets its own, and of its own content, so that a damaged one is built again and not run. It is loaded from a folder of
our own alone, in which nobody else can put one. Nothing is printed here: callers decide who is told `why_unavailable`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from hypergen.runtime.cache_folder import cache_folder

SOURCE = Path(__file__).with_name("native.cpp")
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
SECONDS_TO_COMPILE = 120  # it takes a few, more on a busy machine
SECONDS_IDLE = 20.0  # after which a compiler that does nothing counts as none
SECONDS_BETWEEN_LOOKS = 0.5
OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NativeError(Exception):
    """There is no native code here; the message gives the reason."""


def load_native_library() -> ctypes.CDLL | None:
    """Load the compiled `native.cpp`, compiling it if necessary; None where that is not possible."""
    return _library_or_reason()[0]


def fallback_message(reason: str) -> str:
    """Say that torch takes the place of native code, and why."""
    return f"native decoding is unavailable ({reason}); using torch instead"


def why_unavailable() -> str | None:
    """Give the reason where native code could be expected (on Linux) and cannot be had; None otherwise."""
    return _library_or_reason()[1]


@cache
def _library_or_reason() -> tuple[ctypes.CDLL | None, str | None]:
    """Try once a process: compiling takes seconds, and a failure would repeat itself."""
    if sys.platform != "linux":
        return None, None
    try:
        return _with_types(_load()), None
    except NativeError as error:
        return None, str(error)


def _with_types(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the functions of `native.cpp`.

    Raises:
        NativeError: one is not there, because the compiler made something else.
    """
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    try:
        for function in (library.lanes, library.decode_step, library.cross_entropy, library.sharpness):
            function.restype = number
        library.decode_step.argtypes = [pointer, number, *[pointer] * 3, number, number, number, pointer, number]
        library.sample_tokens.restype = None
        library.sample_tokens.argtypes = [pointer, pointer, pointer, number, pointer, number]
        rows = (pointer, number, pointer, number, number)
        library.cross_entropy.argtypes = [*rows, ctypes.c_float, *[pointer] * 3, number]
        library.sharpness.argtypes = [*rows, *[pointer] * 3, number]
    except AttributeError as error:
        raise NativeError(f"the compiled library lacks a function ({error})") from error
    return library


def _load() -> ctypes.CDLL:
    """Load the library for this processor: the one in the cache, or a new one.

    Raises:
        NativeError: there is no compiler, it fails, or the library cannot be written or loaded.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (c++, g++ or $CXX)")
    ingredients = "\n".join((SOURCE.read_text(encoding="utf-8"), compiler, *OPTIONS, platform.platform(), _processor()))
    name = f"native-{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}"
    try:
        folder = _own_folder(cache_folder() / f"native-{os.geteuid()}")  # a cache may be shared by several users
        for path in sorted(folder.glob(f"{name}-*.so")):
            if (library := _checked(path)) is not None:
                return library
            path.unlink(missing_ok=True)  # damaged
        library = _checked(_compile(compiler, folder, name))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise NativeError(f"{name}: {error}") from error
    if library is None:
        raise NativeError(f"{name}: what was compiled is not what was written")
    return library


def _own_folder(folder: Path) -> Path:
    """Make the folder, for its owner alone, and refuse one in which others can put a library.

    Raises:
        NativeError: it belongs to somebody else, or others may write into it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & OF_OTHERS:
        raise NativeError(
            f"{folder}: others can write into this folder; chmod go-w, or name your own ($HYPERGEN_CACHE)"
        )
    return folder


def _checked(path: Path) -> ctypes.CDLL | None:
    """Load a library that is ours and whole: what is loaded is the open file that was checked; None for any other.

    Raises:
        OSError: it cannot be loaded.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # a link, or gone
        return None
    found = os.fstat(descriptor)
    is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OF_OTHERS
    if is_ours and _digest(descriptor) == path.stem.rpartition("-")[2]:
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")  # stays open: the loader knows a library by its name
    os.close(descriptor)
    return None


def _digest(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compile(compiler: str, folder: Path, name: str) -> Path:
    """Compile into a temporary folder and move the result into `folder`, where it is whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        compiled = Path(temporary) / f"{name}.so"
        _run([*compiler.split(), *OPTIONS, "-o", str(compiled), str(SOURCE)])
        compiled.chmod(0o700)
        digest = hashlib.sha256(compiled.read_bytes()).hexdigest()
        path = folder / f"{name}-{digest}.so"
        os.replace(compiled, path)  # two processes may do this at once
    return path


def _run(command: list[str]) -> None:
    """Run the compiler, in a group of its own that ends with it.

    Raises:
        NativeError: it fails, or hangs.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            told = _wait(process, command[0])
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = (told.decode(errors="replace").strip() or f"status {process.returncode}").splitlines()
        raise NativeError(f"{command[0]}: {lines[0]}")


def _wait(process: subprocess.Popen[bytes], compiler: str) -> bytes:
    """Wait for a compiler as long as it works, and return what it tells.

    Raises:
        NativeError: it has used no processor for SECONDS_IDLE, or is not done after SECONDS_TO_COMPILE.
    """
    started = worked = time.monotonic()
    spent = 0
    while True:
        try:
            return process.communicate(timeout=SECONDS_BETWEEN_LOOKS)[1]
        except subprocess.TimeoutExpired:
            now, former, spent = time.monotonic(), spent, _processor_time(process.pid)
            worked = now if spent > former else worked
            if now - worked > SECONDS_IDLE or now - started > SECONDS_TO_COMPILE:
                raise NativeError(f"{compiler}: not done after {now - started:.0f} s") from None


def _processor_time(group: int) -> int:
    """Add up the processor time (ticks) of a process group and of its children that have ended."""
    return sum(_ticks(path, group) for path in Path("/proc").glob("[0-9]*/stat"))


def _ticks(path: Path, group: int) -> int:
    with suppress(OSError):  # it has ended
        numbers = path.read_bytes().rpartition(b")")[2].split()
        return sum(map(int, numbers[11:15])) if int(numbers[2]) == group else 0
    return 0


def _processor() -> str:
    """Describe what -march=native depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
