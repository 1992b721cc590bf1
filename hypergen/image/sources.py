"""Read sources of pictures as a lazy sequence of PIL RGB pictures.

A source is a folder (searched recursively), a zip, one picture file, `cifar10`, or `hub:ID[:SPLIT]`. Cheap facts are
checked when the source is opened: it exists and holds at least one picture. Decoding happens, and fails, item by item.
Every file is untrusted: only PNG, JPEG, WebP and BMP decoders run, the pixel count is read from the header before any
pixel is decoded, and zip members are read in memory, never written to disk. Every picture becomes 8-bit RGB
(`rgb.to_rgb`), an animation its first frame.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, overload

from PIL import Image

from hypergen.data.archives import ZipMembers
from hypergen.data.bad_rows import skip_bad_rows
from hypergen.data.folders import expanded
from hypergen.data.hub import is_told_offline, load_hub_rows
from hypergen.errors import InputError
from hypergen.image.rgb import DECODING_ERRORS, to_rgb
from hypergen.runtime.cache_folder import cache_folder
from hypergen.runtime.console import first_line
from hypergen.runtime.progress import track

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ALLOWED = "PNG, JPEG, WebP or BMP"
MAX_PIXELS = 64_000_000
MAX_BYTES = 4 * MAX_PIXELS + 65_536  # the largest uncompressed BMP below the pixel cap


class Pictures(Sequence[Image.Image]):
    """Hold pictures that are read when they are asked for; a slice is again lazy."""

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
    """Open a source: -> its pictures, in sorted order of their names.

    Args:
        source: a folder, zip or picture file, `cifar10` or `hub:ID[:SPLIT]`.
        skip_bad: bad pictures to skip and count, at most; to find them all are decoded once now.

    Raises:
        InputError: no such source, no picture in it, or more bad ones.
    """
    pictures = _open(source)
    return _good_ones(source, pictures, skip_bad) if skip_bad else pictures


def read_rows(rows: Sequence[object], source: str, skip_bad: int = 0) -> Pictures:
    """Take pictures from Python objects: PIL pictures, or rows of a table, of which the first picture counts.

    Args:
        rows: at least one.
        source: what they are, for messages.
        skip_bad: bad ones to skip and count, at most; to find them all are read once now.

    Raises:
        InputError: the first one is no picture, or more are bad.
    """

    def load(row: int) -> Image.Image:
        values = [found := rows[row], *(found.values() if isinstance(found, Mapping) else ())]
        picture = next((value for value in values if isinstance(value, Image.Image)), None)
        if picture is None:
            kind = type(found).__name__
            raise InputError(f"{source}: row {row + 1}: is a {kind} without a picture; PIL pictures are needed")
        return to_rgb(picture, f"{source}: row {row + 1}")

    pictures = Pictures(load, range(len(rows)))
    if skip_bad:
        return _good_ones(source, pictures, skip_bad)
    pictures[0]
    return pictures


def _good_ones(source: str, pictures: Pictures, skip_bad: int) -> Pictures:
    """Decode every picture once, and leave out the bad ones."""
    good = []
    with skip_bad_rows(source, skip_bad) as skip, track("check pictures", len(pictures)) as advance:
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
    """Tell from its name, then from the disk, which kind of source it is."""
    name, _, split = source.partition(":")
    if name == "cifar10":
        return _cifar10(split or "train")
    if name == "hub":
        return _hub(source)
    path = expanded(source)
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
    """Ask the disk, and name the source where it does not answer."""
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
            return to_rgb(picture, where)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{where}: more than the {MAX_PIXELS:,} pixels that are allowed") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{where}: not a {ALLOWED} picture") from None
    except DECODING_ERRORS as error:
        raise InputError(f"{where}: damaged picture ({first_line(error)})") from None


def _files(paths: list[Path]) -> Pictures:
    """Read one file a picture, each checked before it is opened."""

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
    """Find every file below the folder with a picture's suffix; hidden files and other suffixes do not count."""
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
    """Read the members of an archive whose names have a picture's suffix."""
    members = ZipMembers(path, suffixes=SUFFIXES, item="picture", max_bytes=MAX_BYTES)
    return Pictures(lambda row: open_picture(io.BytesIO(members.read(row)), members.where(row)), range(len(members)))


def _cifar10(split: str) -> Pictures:
    """Read CIFAR-10 from the cache folder, where torchvision downloads it once."""
    if split not in ("train", "test"):
        raise InputError(f"pictures 'cifar10:{split}': allowed are cifar10 (its training part) and cifar10:test")
    from torchvision.datasets import CIFAR10

    root = cache_folder()
    try:
        dataset = CIFAR10(str(root), train=split == "train", download=not is_told_offline())
    except Exception as error:  # any of torchvision, the network and a damaged archive
        hint = "HF_HUB_OFFLINE is set" if is_told_offline() else first_line(error)
        raise InputError(f"cifar10: not in {root} and not downloaded ({hint})") from None
    return Pictures(lambda row: dataset[row][0], range(len(dataset)))


def _hub(source: str) -> Pictures:
    """Read the picture column of a data set; the pictures are decoded here, not by the library."""
    rows = load_hub_rows(source)
    from datasets import Image as ImageColumn

    columns = [column for column, kind in rows.features.items() if isinstance(kind, ImageColumn)]
    if not columns or not len(rows):
        raise InputError(f"pictures '{source}': no picture column among {', '.join(rows.features) or 'none'}")
    rows = rows.cast_column(columns[0], ImageColumn(decode=False))

    def load(row: int) -> Image.Image:
        content = rows[row][columns[0]]
        where = f"{source}, row {row}"
        if content is None:
            raise InputError(f"{where}: no picture")
        if content["bytes"] is None:
            return _files([Path(content["path"])])[0]
        return open_picture(io.BytesIO(content["bytes"]), where)

    return Pictures(load, range(len(rows)))
