"""Convert a PIL picture of any mode to RGB, whether `sources` read it from a file or it comes from somebody's Python.

Imports no torch, so that bad files are refused at once.
"""

from __future__ import annotations

import struct
import warnings
import zlib

from PIL import ExifTags, Image, ImageOps

from hypergen.errors import InputError
from hypergen.runtime.console import first_line

DECODING_ERRORS = (  # of Pillow's decoders
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


def to_rgb(picture: Image.Image, where: str = "picture") -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB: upright by its EXIF orientation, on white where it is transparent.

    Args:
        picture: stays as it is.
        where: how messages begin.

    Raises:
        InputError: it has more than 8 bits a channel, or its pixels cannot be had.
    """
    if picture.mode.startswith(("I", "F")):
        raise InputError(f"{where}: pixel format {picture.mode}; allowed are 8 bits a channel")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata, of which only the orientation is used
            picture.load()
            if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                picture = ImageOps.exif_transpose(picture)
            return _on_white(picture) if picture.has_transparency_data else _converted(picture, "RGB")
    except DECODING_ERRORS as error:
        raise InputError(f"{where}: damaged picture ({first_line(error)})") from None


def _on_white(picture: Image.Image) -> Image.Image:
    picture = _converted(picture, "LA") if picture.mode == "La" else picture  # of which Pillow makes nothing else
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, _converted(picture, "RGBA")).convert("RGB")


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)
