"""Pictures as tensors. Alone: pytest tests/image/test_pixels.py"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hypergen.image.pixels import (
    chunks,
    from_patches,
    from_unit,
    square,
    to_patches,
    to_pictures,
    to_pixels,
    to_unit,
)
from tests.image.tiny import SIZE, pictures, smooth_pixels


def test_pictures_of_any_size_become_centre_squares():
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (10, 0, 30, 20))
    assert square(wide, 20).getcolors() == [(400, (0, 0, 255))]
    assert square(wide.convert("L"), 7).mode == "RGB"
    assert square(pictures(1)[0], SIZE) == pictures(1)[0]


def test_pixels_and_pictures():
    pixels = smooth_pixels(2)
    assert to_pixels(to_pictures(pixels), SIZE).equal(pixels)
    assert from_unit(to_unit(pixels)).equal(pixels)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_patches_are_those_of_pixel_unshuffle(side):
    pixels = smooth_pixels(3).float()
    patches = to_patches(pixels, side)
    assert patches.equal(F.pixel_unshuffle(pixels, side)) and from_patches(patches, side).equal(pixels)


def test_channels_come_first_as_in_numpy():
    shown = pictures(2)
    expected = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in shown])
    assert np.array_equal(to_pixels(shown, SIZE).numpy(), expected)


def test_floats_are_clipped_and_rounded():
    assert from_unit(torch.tensor([-2.0, -1.0, 0.0, 0.001, 1.0, 3.0])).tolist() == [0, 0, 128, 128, 255, 255]
    assert to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(("length", "size", "expected"), [(0, 3, []), (3, 3, [3]), (7, 3, [3, 3, 1])])
def test_chunks_cover_everything_in_order(length, size, expected):
    slices = list(chunks(length, size))
    assert [part.stop - part.start for part in slices] == expected
    assert [row for part in slices for row in range(length)[part]] == list(range(length))
