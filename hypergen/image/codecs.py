"""The contract of a picture tokenizer, and how one is found in a folder.

`vq.VQTokenizer` and `colors.ColorClusters` fulfil it. A codec has one picture size, and says everything about itself in
the files that it saves.
Does not know: sequences, start tokens, transformers.

Shape letters: N pictures, K codes, h w code grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from hypergen.errors import InputError
from hypergen.image import colors, vq


class Codec(Protocol):
    """Pictures <-> codes. Pictures of any size are cut to their centre square and scaled."""

    num_codes: int  # K
    image_size: int  # side of a picture in pixels
    stride: int  # pixels a side that one code stands for
    grid: tuple[int, int]  # (h, w)

    def encode(self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu") -> Tensor:
        """N pictures -> (N, h * w) int64 codes on the CPU, row by row from the top left."""
        ...

    def decode(self, codes: Tensor, device: torch.device | str = "cpu") -> list[Image.Image]:
        """(N, h * w) codes -> N pictures."""
        ...

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Into the folder of a base, so that `load_codec` finds it there."""
        ...


def load_codec(folder: Path, image_size: int | None = None) -> Codec:
    """The codec of a base (its `codec/`, or a palette), or the folder of a diffusers VQModel.

    Raises:
        InputError: there is none, it is damaged, or it cannot have this picture size.
    """
    for place in (folder / vq.SUBFOLDER, folder):
        if vq.is_vq_folder(place):
            return vq.VQTokenizer.load(place, image_size)
    if (folder / colors.FILE).is_file():
        return colors.ColorClusters.load(folder, image_size)
    raise InputError(f"{folder}: no picture codec; needed is {vq.SUBFOLDER}/ (a diffusers VQModel) or {colors.FILE}")
