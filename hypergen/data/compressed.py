"""Open files as they are or unpacked, as bytes of which any part can be read again.

Gzip, bzip2, xz and zstd are told by their first bytes, whatever the name says. A compressed file is unpacked once, as a
stream, into a temporary file without a name, which is gone with its last reader, also after a kill. An archive is
untrusted: what would unpack to more than a text can is a bomb.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast, final

from hypergen.data.archives import MAX_RATIO
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.runtime.dependencies import load_optional
from hypergen.runtime.progress import Advance, track
from hypergen.storage.atomic import disk_errors

ZSTANDARD = "zstandard>=0.22"
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
OPENERS: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
LONGEST_SIGNATURE = max(map(len, SIGNATURES))
SMALL = 64 * 2**20  # bytes below which no ratio does harm
LARGE = 256 * 2**20  # bytes from which on progress is shown
CHUNK = 2**20  # bytes that are unpacked at a time
ZSTD_CHUNK = 2**10  # packed bytes at a time; each may stand for 32 KiB
DAMAGED = (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Content:
    """The bytes of a file, unpacked."""

    name: str
    """How messages call the file."""
    size: int
    """Bytes."""
    open: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens it at its first byte, which need not be that of the file that is handed out."""

    def read(self, start: int, end: int) -> bytes:
        """Read a range of bytes, counted from the first one."""
        with self.open() as file:
            file.seek(start, os.SEEK_CUR)
            return file.read(end - start)

    @contextmanager
    def scan(self) -> Iterator[BinaryIO]:
        """Open it for one pass over all of it, whose progress is shown where the file is large."""
        with self.open() as file, _progress(f"read {self.name}", self.size) as advance:
            yield file if advance is None else cast(BinaryIO, io.BufferedReader(_Watched(file, advance), CHUNK))


@final
class _Watched(io.RawIOBase):
    """Count the bytes that are read from a file."""

    def __init__(self, file: BinaryIO, advance: Advance):
        self._file, self._advance = file, advance

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = cast(io.BufferedReader, self._file).readinto(buffer)
        if count:
            self._advance(count)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


@contextmanager
def _progress(label: str, size: int) -> Iterator[Advance | None]:
    """Show the progress of reading so many bytes; None where that takes no time."""
    if size < LARGE:
        yield None
        return
    with track(label, size) as advance:
        yield advance


def compression_of(path: Path) -> str | None:
    """Tell how a file is compressed by its first bytes; None where it is not."""
    with path.open("rb") as file:
        beginning = file.read(LONGEST_SIGNATURE)
    return next((name for signature, name in SIGNATURES.items() if beginning.startswith(signature)), None)


def inner_suffix(path: Path) -> str:
    """Tell the kind of a file by its name, in lower case: `.jsonl` for `a.jsonl` and `a.JSONL.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in SUFFIXES else suffix


@final
class Unpacker:
    """Open the files of one source; those that are compressed share one temporary file."""

    def __init__(self) -> None:
        self._spool: BinaryIO | None = None

    def open(self, path: Path) -> Content:
        """Open a file; one that is compressed is unpacked now.

        Raises:
            InputError: it is damaged or a bomb, or its library is missing.
            DiskError: it does not fit on the disk of the temporary folder.
        """
        compression = compression_of(path)
        if compression is None:
            return Content(str(path), path.stat().st_size, lambda: path.open("rb"))
        if self._spool is None:
            self._spool = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
            weakref.finalize(self, self._spool.close)  # the last content that holds this object
        first = self._spool.seek(0, os.SEEK_END)
        unpack(path, compression, self._spool)
        return Content(str(path), self._spool.tell() - first, partial(self._part, first))

    @contextmanager
    def _part(self, first: int) -> Iterator[BinaryIO]:
        """Lend the temporary file; while a file is indexed, it is the last one in it."""
        spool = cast(BinaryIO, self._spool)
        spool.seek(first)
        yield spool


@contextmanager
def unpacked_copy(path: Path) -> Iterator[tuple[Path, Path | None]]:
    """Give a library a file that it can open, and a folder for what it makes of it, where the file is compressed.

    The folder is removed when the context ends, which an `ExitStack` may put off.
    """
    compression = compression_of(path)
    if compression is None:
        yield path, None
        return
    folder = Path(tempfile.mkdtemp(prefix="hypergen-"))
    try:
        copy = folder / (path.stem if path.suffix.lower() in SUFFIXES else path.name)
        with copy.open("wb") as file:
            unpack(path, compression, file)
        yield copy, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(path: Path, compression: str, target: BinaryIO) -> None:
    """Unpack a file as a stream, a piece at a time.

    Raises:
        InputError: it is damaged or a bomb, or its library is missing.
        DiskError: the target's disk is full.
    """
    size, total = path.stat().st_size, 0
    most, temporary = max(MAX_RATIO * size, SMALL), Path(tempfile.gettempdir())
    with path.open("rb") as file, _progress(f"unpack {path}", size) as advance:
        packed = file if advance is None else cast(BinaryIO, io.BufferedReader(_Watched(file, advance), CHUNK))
        for piece in _pieces(path, compression, packed):
            total += len(piece)
            if total > most:
                raise InputError(f"{path}: would unpack to more than {most:,} bytes, {MAX_RATIO} times its size")
            with disk_errors(temporary):
                target.write(piece)
    with disk_errors(temporary):
        target.flush()


def _pieces(path: Path, compression: str, file: BinaryIO) -> Iterator[bytes]:
    """Yield what a file unpacks to.

    Raises:
        InputError: it is damaged, or its library is missing.
    """
    stream = _zstd(path, file) if compression == "zstd" else _standard(file, compression)
    while True:
        try:
            piece = next(stream, b"")
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be unpacked ({compression}: {first_line(error)})") from None
        if not piece:
            return
        yield piece


def _standard(file: BinaryIO, compression: str) -> Iterator[bytes]:
    with OPENERS[compression](file, "rb") as stream:
        while piece := stream.read(CHUNK):
            yield cast(bytes, piece)


def _zstd(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Unpack frame after frame: the library's own stream takes a file that was cut off for a whole one."""
    zstandard = load_optional("zstandard", ZSTANDARD, f"{path}: is compressed (zstd)")
    waiting, frame = b"", None
    while packed := waiting or file.read(ZSTD_CHUNK):
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            piece = frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise EOFError(first_line(error)) from None
        waiting, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if piece:
            yield piece
    if frame is not None:
        raise EOFError("it ends before its end mark")
