"""Tiny pictures, codecs and bases, all random. Nothing is downloaded, nothing but the smallest network is trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from diffusers import VQModel
from PIL import Image
from torch import Tensor

from hypergen.config import PretrainConfig
from hypergen.image.config import Settings
from hypergen.image.modality import ImageModality, build
from hypergen.image.pixels import to_pictures

SIZE = 16


def smooth_pixels(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """(N, 3, S, S) uint8: random colours on a 4 x 4 grid, interpolated, so that neighbours resemble each other."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return fine.round().to(torch.uint8)


def pictures(count: int = 6, size: int = SIZE, seed: int = 0) -> list[Image.Image]:
    return to_pictures(smooth_pixels(count, size, seed))


def config(**changes: object) -> PretrainConfig:
    values: dict = {"modality": "image", "data": "unused", "output": "unused", "device": "cpu", "codec_steps": 2}
    values |= {"vocabulary_size": 12, "width": 16, "num_layers": 2, "num_heads": 2}
    return PretrainConfig(**values | changes)


@cache
def base(codec: str = "vq") -> ImageModality:
    """A base over pictures of 16 x 16: 4 x 4 codes (vq) or 16 x 16 (colors)."""
    return build(pictures(8), Settings(codec=codec, image_size=SIZE), config())


def vq_folder(folder: Path, levels: int = 2, **changes: object) -> Path:
    """An ordinary VQModel of diffusers, three channels and no patches, as others publish it."""
    shape = {"block_out_channels": (8,) * levels, "norm_num_groups": 2, "num_vq_embeddings": 10, "sample_size": SIZE}
    shape |= {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VQModel(**shape | changes)
    torch.nn.init.normal_(model.quantize.embedding.weight, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return folder
