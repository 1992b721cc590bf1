"""Compile and load `native.cpp`: once a machine, by the C++ compiler there is, into the user's cache.

The name of the library holds a digest of all that it is made from, so that a new version, compiler or processor gets
its own. Nothing is printed here: callers decide who is told `why_unavailable`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from hypergen.runtime.cache_folder import cache_folder

SOURCE = Path(__file__).with_name("native.cpp")
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
SECONDS_TO_COMPILE = 120  # it takes three; a compiler that hangs counts as none


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
        library = _load()
    except NativeError as error:
        return None, str(error)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for function in (library.lanes, library.decode_step, library.cross_entropy, library.sharpness):
        function.restype = number
    library.decode_step.argtypes = [pointer, number, pointer, pointer, pointer, number, number, number, pointer, number]
    library.sample_tokens.restype = None
    library.sample_tokens.argtypes = [pointer, pointer, pointer, number, pointer, number]
    library.cross_entropy.argtypes = [pointer, number, pointer, number, number, ctypes.c_float, *[pointer] * 3, number]
    library.sharpness.argtypes = [pointer, number, pointer, number, number, *[pointer] * 3, number]
    return library, None


def _load() -> ctypes.CDLL:
    """Load the library for this processor: the one in the cache, or a new one.

    Raises:
        NativeError: there is no compiler, it fails, or the library cannot be written or loaded.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (c++, g++ or $CXX)")
    ingredients = "\n".join((SOURCE.read_text(), compiler, *OPTIONS, platform.platform(), _processor()))
    name = f"native-{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}.so"
    try:
        path = cache_folder() / name
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise NativeError(f"{name}: {error}") from error


def _compile(compiler: str, path: Path) -> None:
    """Compile into a temporary folder and move the result to `path`, which exists whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled = Path(folder) / path.name
        try:
            subprocess.run(
                [*compiler.split(), *OPTIONS, "-o", str(compiled), str(SOURCE)],
                check=True, capture_output=True, text=True, timeout=SECONDS_TO_COMPILE,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = (error.stderr.strip() or f"status {error.returncode}").splitlines()
            raise NativeError(f"{compiler}: {lines[0]}") from error
        except subprocess.TimeoutExpired as error:
            raise NativeError(f"{compiler}: not done after {SECONDS_TO_COMPILE} s") from error
        os.replace(compiled, path)  # two processes may do this at once


def _processor() -> str:
    """Describe what -march=native depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
