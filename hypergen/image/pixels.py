"""PIL pictures <-> pixel tensors of one size.

Shape letters: N pictures, S side in pixels. Pixels are uint8 RGB; networks see them in [-1, 1].
Does not know: where pictures come from, or what a code is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BILINEAR = Image.Resampling.BILINEAR  # what ImageGPT's own image processor uses


def square(picture: Image.Image, image_size: int, resampling: Image.Resampling = BILINEAR) -> Image.Image:
    """The centre square of a picture, `image_size` pixels wide."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    if (picture.width, picture.height) != (side, side):
        picture = picture.crop((left, top, left + side, top + side))
    if side != image_size:
        picture = picture.resize((image_size, image_size), resampling)
    return picture.convert("RGB")


def to_pixels(pictures: Sequence[Image.Image], image_size: int, resampling: Image.Resampling = BILINEAR) -> Tensor:
    """N pictures of any size -> (N, 3, S, S) uint8."""
    pixels = torch.empty(len(pictures), 3, image_size, image_size, dtype=torch.uint8)
    for row in range(len(pictures)):
        pixels[row] = torch.from_numpy(np.array(square(pictures[row], image_size, resampling))).permute(2, 0, 1)
    return pixels


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(N, 3, S, S) uint8 -> N pictures."""
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()) for picture in pixels]


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def from_unit(values: Tensor) -> Tensor:
    """Floats, clipped to [-1, 1] -> uint8."""
    return ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def chunks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(length)` in order."""
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))
