"""Convert PIL pictures to pixel tensors of one size, and back.

Pixels are uint8 RGB (`rgb`); networks see them as floats in [-1, 1].

Shape letters: N pictures, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from hypergen.image.rgb import to_rgb

LARGEST_SIDE = 8192  # pixels a side that a codec may ask for: more than any needs, too few to fill the memory
BILINEAR = Image.Resampling.BILINEAR  # as in ImageGPT's own image processor


def square(picture: Image.Image, image_size: int, resampling: Image.Resampling = BILINEAR) -> Image.Image:
    """Convert a picture to RGB, cut its centre square out, and scale that to `image_size` pixels a side."""
    picture = to_rgb(picture)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    if (picture.width, picture.height) != (side, side):
        picture = picture.crop((left, top, left + side, top + side))
    if side != image_size:
        picture = picture.resize((image_size, image_size), resampling)
    return picture


def to_pixels(pictures: Sequence[Image.Image], image_size: int, resampling: Image.Resampling = BILINEAR) -> Tensor:
    """Convert N pictures of any size to pixels (N, 3, S, S) uint8."""
    pixels = torch.empty(len(pictures), 3, image_size, image_size, dtype=torch.uint8)
    for row in range(len(pictures)):
        values = torch.from_numpy(np.array(square(pictures[row], image_size, resampling)))
        pixels[row] = rearrange(values, "height width channel -> channel height width")
    return pixels


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Convert pixels (N, 3, S, S) uint8 to N pictures."""
    channels_last = rearrange(pixels, "n channel height width -> n height width channel")
    return [Image.fromarray(picture) for picture in channels_last.contiguous().cpu().numpy()]


def to_patches(values: Tensor, side: int) -> Tensor:
    """Fold patches of `side` x `side` pixels into channels: (N, C, S, S) -> (N, C * side^2, S / side, S / side)."""
    pattern = "n channel (h row) (w column) -> n (channel row column) h w"
    return rearrange(values, pattern, row=side, column=side)


def from_patches(patches: Tensor, side: int) -> Tensor:
    """Unfold patches of `side` x `side` pixels: (N, C * side^2, h, w) -> (N, C, side * h, side * w)."""
    pattern = "n (channel row column) h w -> n channel (h row) (w column)"
    return rearrange(patches, pattern, row=side, column=side)


def to_unit(pixels: Tensor) -> Tensor:
    """Scale uint8 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Scale floats, clipped to [-1, 1], to uint8."""
    return ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def chunks(length: int, size: int) -> Iterator[slice]:
    """Cut `range(length)` into slices of at most `size`, in order."""
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))
