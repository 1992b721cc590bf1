"""Read members of a zip archive in memory, after every member was checked.

An archive is untrusted: one unsafe member of any kind refuses it, a total size that only a bomb has as well, and
nothing is ever written to disk.
"""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import final

from hypergen.errors import InputError
from hypergen.runtime.console import first_line

DAMAGED = (  # all that the library raises on a file that is damaged, of another make, or made to annoy
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, LookupError, struct.error, OverflowError, MemoryError),
)
MAX_RATIO = 100  # bytes that one byte of a zip may stand for
SMALL = 2**20  # bytes below which no ratio does harm


@final
class ZipMembers:
    """Hold the members of a zip that have certain suffixes, in the order of their names."""

    def __init__(self, path: Path, *, suffixes: tuple[str, ...], item: str, max_bytes: int):
        """Open and check the archive; hidden members and those of `__MACOSX` do not count.

        Args:
            path: the archive.
            suffixes: of the wanted members, in lower case.
            item: what a member is, for messages ("picture").
            max_bytes: the size of the largest wanted member.

        Raises:
            InputError: it cannot be read, has an unsafe member, or none of the wanted ones.
        """
        self._path, self._suffixes, self._item, self._max_bytes = path, suffixes, item, max_bytes
        try:
            self._archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise InputError(f"zip '{path}': cannot be read ({first_line(error)})") from None
        self._check_total()
        self._members = sorted(self._wanted(), key=lambda member: member.filename)
        if not self._members:
            raise InputError(f"zip '{path}': no {item} in it; allowed are {', '.join(suffixes)}")

    def __len__(self) -> int:
        return len(self._members)

    def where(self, row: int) -> str:
        """Name archive and member, for messages."""
        return f"{self._path}, member {self._members[row].filename!r}"

    def read(self, row: int) -> bytes:
        """Unpack one member.

        Raises:
            InputError: it is empty, encrypted or damaged.
        """
        if self._members[row].file_size == 0:
            raise InputError(f"{self.where(row)}: the file is empty")
        try:
            return self._archive.read(self._members[row])
        except DAMAGED as error:
            raise InputError(f"{self.where(row)}: cannot be read ({first_line(error)})") from None

    def _check_total(self) -> None:
        """Refuse a bomb, also one whose members overlap, each of which seems honest."""
        total = sum(member.file_size for member in self._archive.infolist())
        if total > max(MAX_RATIO * self._path.stat().st_size, SMALL):
            raise InputError(
                f"zip '{self._path}': would unpack to {total:,} bytes, more than {MAX_RATIO} times its size"
            )

    def _wanted(self) -> Iterator[zipfile.ZipInfo]:
        for member in self._archive.infolist():
            if (reason := self._unsafe(member)) is not None:
                raise InputError(f"zip '{self._path}', member {member.filename!r}: {reason} is not allowed")
            name = PurePosixPath(member.filename)
            is_visible = not name.name.startswith(".") and "__MACOSX" not in name.parts
            if is_visible and not member.is_dir() and name.suffix.lower() in self._suffixes:
                yield member

    def _unsafe(self, member: zipfile.ZipInfo) -> str | None:
        """Name the danger of a member; None where there is none."""
        name = member.orig_filename.replace("\\", "/")
        if not member.filename:
            return "an empty name"
        if name.startswith("/") or name[1:2] == ":":
            return "an absolute path"
        if ".." in name.split("/"):
            return "'..' in a path"
        if stat.S_ISLNK(member.external_attr >> 16):
            return "a symbolic link"
        if member.flag_bits & 1:
            return "encryption"
        if member.file_size > max(MAX_RATIO * member.compress_size, SMALL):
            return f"a member of more than {MAX_RATIO} times its compressed size"
        if member.file_size > self._max_bytes and name.lower().endswith(self._suffixes):
            return f"a {self._item} of {member.file_size:,} bytes (most: {self._max_bytes:,})"
        return None
