"""Tokenize pictures with ImageGPT's palette: each pixel is the nearest of K colours (Chen et al., 2020).

The palette is that of an ImageGPT checkpoint, in `preprocessor_config.json` (`clusters`, colours in [-1, 1]), or is
fitted by k-means to the user's pictures and saved in the same file, which transformers reads as well.

Shape letters: N pictures, S side in pixels, K colours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from hypergen.errors import InputError
from hypergen.image.codebook import CodeBook, nearest, to_maps, to_vectors
from hypergen.image.pixels import BILINEAR, LARGEST_SIDE, chunks, from_unit, to_pictures, to_pixels, to_unit
from hypergen.runtime.progress import Advance, no_progress
from hypergen.storage.strict_json import read_object

FILE = "preprocessor_config.json"
PIXELS_TO_FIT = 200_000
BATCH_SIZE = 64


@final
class ColorClusters:
    """Convert pictures to palette indices, and back; see `tokenizer.Codec`."""

    stride = 1
    resampling = BILINEAR

    def __init__(self, clusters: Tensor, image_size: int):
        self.clusters = clusters.float()  # (K, 3) in [-1, 1]
        self.num_codes = len(clusters)
        self.image_size = image_size
        self.grid = (image_size, image_size)

    def encode(
        self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> Tensor:
        """Encode N pictures as palette indices (N, S * S)."""
        clusters = self.clusters.to(device)
        codes = torch.empty(len(pictures), self.image_size**2, dtype=torch.long)
        for rows in chunks(len(pictures), BATCH_SIZE):
            pixels = to_pixels(pictures[rows], self.image_size).to(device)
            codes[rows] = nearest(to_vectors(to_unit(pixels)), clusters).view(len(pixels), -1).cpu()
            advance(len(pixels))
        return codes

    def decode(
        self, codes: Tensor, device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> list[Image.Image]:
        """Decode palette indices (N, S * S) into N pictures, exactly in the palette's colours."""
        palette = from_unit(self.clusters)
        advance(len(codes))
        return to_pictures(to_maps(palette[codes.cpu().flatten()], self.grid))

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write `preprocessor_config.json` of transformers' ImageGPTImageProcessor; the palette is always fp32."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "image_processor_type": "ImageGPTImageProcessor",
            "clusters": self.clusters.tolist(),
            "do_color_quantize": True,
            "do_normalize": True,
            "do_resize": True,
            "resample": int(Image.Resampling.BILINEAR),
            "size": {"height": self.image_size, "width": self.image_size},
        }
        (folder / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, image_size: int | None = None) -> ColorClusters:
        """Load the palette of a checkpoint.

        Args:
            folder: has `preprocessor_config.json`.
            image_size: of pictures; by default the checkpoint's own.

        Raises:
            InputError: no palette, or not one of colours in [-1, 1].
        """
        content, where = read_object(folder / FILE), f"{folder / FILE}"
        try:
            clusters = torch.tensor(content.get("clusters"), dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            clusters = torch.empty(0)
        if clusters.ndim != 2 or clusters.shape[1] != 3 or not bool((clusters.abs() <= 1).all()):
            raise InputError(f"{where}: clusters must be a list of colours, three numbers between -1 and 1 each")
        return cls(clusters, image_size or _side(content.get("size"), where))

    @classmethod
    def fit(cls, pixels: Tensor, num_codes: int, image_size: int, seed: int) -> ColorClusters:
        """Fit a palette by k-means to pixels (N, 3, S, S) uint8, rounded to colours that 8 bits can show.

        It is smaller than `num_codes` where the pictures have fewer colours.
        """
        generator = torch.Generator().manual_seed(seed)
        colors = to_vectors(pixels)
        drawn = torch.randint(len(colors), (PIXELS_TO_FIT,), generator=generator)
        book = CodeBook(torch.zeros(num_codes, 3))
        book.start(to_unit(colors[drawn]), 1, generator)
        return cls(to_unit(from_unit(book.vectors).unique(dim=0)), image_size)


def _side(size: Any, where: str) -> int:
    """Read `size` of a preprocessor: a number, or height and width, which must be equal."""
    side, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if type(side) is not int or side != width or not 0 < side <= LARGEST_SIDE:
        raise InputError(f"{where}: size is {size!r}; must be one number of pixels, or equal height and width")
    return side
