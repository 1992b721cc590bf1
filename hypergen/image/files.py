"""Sources of pictures -> a lazy sequence of PIL RGB pictures.

A source is a folder (searched recursively), a zip, one picture file, `cifar10`, or `hub:ID[:SPLIT]`. What is cheap is
checked when the source is opened: it exists and holds at least one picture. Decoding happens, and fails, item by item.
Every file is untrusted: only PNG, JPEG, WebP and BMP decoders run, the pixel count is read from the header before any
pixel is decoded, and zip members are read in memory, never written to disk. Every picture becomes 8-bit RGB: grey,
palette, CMYK and 16-bit colour are converted, transparency becomes white, an animation its first frame.
Does not know: tokens, picture sizes that a model wants.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, overload

from PIL import Image, ImageOps

from hypergen.errors import InputError
from hypergen.hub import HUB_ID, first_line, is_offline
from hypergen.progress import track
from hypergen.skipping import skipping

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ALLOWED = "PNG, JPEG, WebP or BMP"
MAX_PIXELS = 64_000_000
MAX_BYTES = 4 * MAX_PIXELS + 65_536  # the largest uncompressed BMP below the pixel cap
MAX_RATIO = 100  # bytes that one byte of a zip may stand for
SMALL = 2**20  # bytes below which no ratio does harm
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    struct.error,
    zlib.error,
)


class Pictures(Sequence[Image.Image]):
    """Pictures that are read when asked for; a slice is again lazy."""

    def __init__(self, load: Callable[[int], Image.Image], rows: Sequence[int]):
        self._load = load
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Pictures:
        if isinstance(index, slice):
            return Pictures(self._load, self._rows[index])
        return self._load(self._rows[index])


def read(source: str, skip_bad: int = 0) -> Pictures:
    """A source -> its pictures, in sorted order of their names.

    Args:
        skip_bad: bad pictures that are passed over and counted, at most; to find them all are decoded once now.

    Raises:
        InputError: no such source, no picture in it, or more bad ones.
    """
    pictures = _open(source)
    return _good_ones(source, pictures, skip_bad) if skip_bad else pictures


def _good_ones(source: str, pictures: Pictures, skip_bad: int) -> Pictures:
    good = []
    with skipping(source, skip_bad) as skip, track("check pictures", len(pictures)) as advance:
        for row in range(len(pictures)):
            try:
                pictures[row]
            except InputError as error:
                skip(error)
            else:
                good.append(row)
            advance()
    if not good:
        raise InputError(f"pictures '{source}': none of {len(pictures)} can be read")
    return Pictures(pictures.__getitem__, good)


def _open(source: str) -> Pictures:
    name, _, split = source.partition(":")
    if name == "cifar10":
        return _cifar10(split or "train")
    if name == "hub":
        return _hub(split)
    path = Path(source).expanduser()
    if _is(path.is_dir, source):
        return _folder(path)
    if not _is(path.is_file, source):
        raise InputError(f"pictures '{source}': no such file or folder; allowed are also cifar10 and hub:ID")
    if path.suffix.lower() == ".zip":
        return _zip(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"pictures '{source}': not a picture by its name; allowed are {', '.join(SUFFIXES)}, .zip")
    return _files([path])


def _is(test: Callable[[], bool], source: str) -> bool:
    try:
        return test()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"pictures '{source}': cannot be read ({error.strerror})") from None


def open_picture(stream: BinaryIO, where: str) -> Image.Image:
    """Decode one picture, turned upright by its EXIF orientation, on white where it is transparent.

    Raises:
        InputError: not one of FORMATS, too many pixels, or damaged; the message starts with `where`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata, of which only the orientation is used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(stream, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width} x {picture.height} pixels"
                raise InputError(f"{where}: {size}, more than the {MAX_PIXELS:,} that are allowed")
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture), where)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{where}: more than the {MAX_PIXELS:,} pixels that are allowed") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{where}: not a {ALLOWED} picture") from None
    except DECODING_ERRORS as error:
        raise InputError(f"{where}: damaged picture ({first_line(error)})") from None


def _rgb(picture: Image.Image, where: str) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        raise InputError(f"{where}: pixel format {picture.mode}; allowed are 8 bits a channel")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _files(paths: list[Path]) -> Pictures:
    def load(row: int) -> Image.Image:
        path = paths[row]
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
                raise InputError(f"{path}: is not a regular file")
            if found.st_size == 0:
                raise InputError(f"{path}: the file is empty")
            if found.st_size > MAX_BYTES:
                raise InputError(f"{path}: has {found.st_size:,} bytes; at most {MAX_BYTES:,} are allowed")
            with path.open("rb") as stream:
                return open_picture(stream, str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    return Pictures(load, range(len(paths)))


def _folder(folder: Path) -> Pictures:
    """Every file below the folder with a picture's suffix; hidden files and other suffixes are passed over."""
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    if not paths:
        raise InputError(f"folder '{folder}': no picture in it; allowed are {', '.join(SUFFIXES)}")
    return _files(paths)


def _zip(path: Path) -> Pictures:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"zip '{path}': cannot be read ({first_line(error)})") from None
    members = sorted(_members(archive, path, path.stat().st_size), key=lambda member: member.filename)
    if not members:
        raise InputError(f"zip '{path}': no picture in it; allowed are {', '.join(SUFFIXES)}")

    def load(row: int) -> Image.Image:
        where = f"{path}, member {members[row].filename!r}"
        if members[row].file_size == 0:
            raise InputError(f"{where}: the file is empty")
        try:
            content = archive.read(members[row])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{where}: cannot be read ({first_line(error)})") from None
        return open_picture(io.BytesIO(content), where)

    return Pictures(load, range(len(members)))


def _members(archive: zipfile.ZipFile, path: Path, num_bytes: int) -> list[zipfile.ZipInfo]:
    """The members that are pictures by their name; one unsafe member of any kind refuses the archive."""
    members = []
    total = sum(member.file_size for member in archive.infolist())
    if total > max(MAX_RATIO * num_bytes, SMALL):  # also where members overlap, each of which seems honest
        raise InputError(f"zip '{path}': would unpack to {total:,} bytes, more than {MAX_RATIO} times its size")
    for member in archive.infolist():
        reason = _unsafe(member)
        if reason:
            raise InputError(f"zip '{path}', member {member.filename!r}: {reason} is not allowed")
        name = PurePosixPath(member.filename)
        visible = not name.name.startswith(".") and "__MACOSX" not in name.parts
        if visible and not member.is_dir() and name.suffix.lower() in SUFFIXES:
            members.append(member)
    return members


def _unsafe(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename.replace("\\", "/")
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
    if member.file_size > MAX_BYTES and name.lower().endswith(SUFFIXES):
        return f"a picture of {member.file_size:,} bytes (most: {MAX_BYTES:,})"
    return None


def cache_folder() -> Path:
    """Where downloaded data sets live: HYPERGEN_CACHE, else ~/.cache/hypergen."""
    return Path(os.environ.get("HYPERGEN_CACHE") or Path.home() / ".cache" / "hypergen")


def _cifar10(split: str) -> Pictures:
    if split not in ("train", "test"):
        raise InputError(f"pictures 'cifar10:{split}': allowed are cifar10 (its training part) and cifar10:test")
    from torchvision.datasets import CIFAR10

    root = cache_folder()
    try:
        dataset = CIFAR10(str(root), train=split == "train", download=not _offline())
    except Exception as error:  # whatever torchvision, network and a damaged archive raise
        hint = "HF_HUB_OFFLINE is set" if _offline() else first_line(error)
        raise InputError(f"cifar10: not in {root} and not downloaded ({hint})") from None
    return Pictures(lambda row: dataset[row][0], range(len(dataset)))


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _hub(name: str) -> Pictures:
    """`ID[:SPLIT]` of a data set with a picture column; the pictures are decoded here, not by the library."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"pictures 'hub:{name}': needs the package 'datasets'; pip install hypergen[hub]") from None
    name, _, split = name.partition(":")
    if not HUB_ID.fullmatch(name):  # a path would be read from this machine
        raise InputError(f"pictures 'hub:{name}': no data set id; it is written hub:ID or hub:ID:SPLIT")
    if is_offline():
        raise InputError(f"pictures 'hub:{name}': the hub cannot be reached from here")
    try:
        rows: Any = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # whatever network, hub and parsers raise; the user can only read it
        raise InputError(f"pictures 'hub:{name}': cannot be loaded ({first_line(error)})") from None
    columns = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not columns or not len(rows):
        raise InputError(f"pictures 'hub:{name}': no picture column among {', '.join(rows.features) or 'none'}")
    rows = rows.cast_column(columns[0], datasets.Image(decode=False))

    def load(row: int) -> Image.Image:
        content = rows[row][columns[0]]
        where = f"hub:{name}, row {row}"
        if content is None:
            raise InputError(f"{where}: no picture")
        if content["bytes"] is None:
            return _files([Path(content["path"])])[0]
        return open_picture(io.BytesIO(content["bytes"]), where)

    return Pictures(load, range(len(rows)))
