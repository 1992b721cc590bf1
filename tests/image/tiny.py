"""Tiny pictures, codecs and bases, all random. Nothing is downloaded, nothing but the smallest network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from PIL import Image
from torch import Tensor

from hypergen.config import PretrainConfig
from hypergen.image.adapter import ImageModality, build
from hypergen.image.config import Settings
from hypergen.image.pixels import to_pictures, to_pixels, to_unit
from hypergen.image.vq_training import decibels

SIZE = 16


class NoCheckpoints:
    """`modality.CodecCheckpoints` that keep nothing."""

    def part(self, name: str, facts: dict[str, Any]) -> NoCheckpoints:
        return self

    def newest(self) -> None:
        return None

    def save(self, state: object) -> None:
        pass

    def stop_signal(self) -> None:
        return None

    def whole_steps(self) -> AbstractContextManager[None]:
        return nullcontext()


def smooth_pixels(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """(N, 3, S, S) uint8: random colours on a 4 x 4 grid, interpolated, so that neighbours resemble each other."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return fine.round().to(torch.uint8)


def pictures(count: int = 6, size: int = SIZE, seed: int = 0) -> list[Image.Image]:
    return to_pictures(smooth_pixels(count, size, seed))


def psnr(found: list[Image.Image], expected: list[Image.Image]) -> float:
    error = to_unit(to_pixels(found, SIZE)) - to_unit(to_pixels(expected, SIZE))
    return decibels(float(error.square().mean()))


def config(**changes: object) -> PretrainConfig:
    values: dict = {"modality": "image", "data": "unused", "output": "unused", "device": "cpu"}
    values |= {"vocabulary_size": 12, "width": 16, "num_layers": 2, "num_heads": 2}
    return PretrainConfig(**values | changes)


def settings(**changes: object) -> Settings:
    values: dict = {"image_size": SIZE, "codec_steps": 2}
    return Settings(**values | changes)


def new_base(items: Sequence[Image.Image], own: Settings | None = None, **changes: object) -> ImageModality:
    """An untrained base; `changes` are those of the config."""
    own = settings() if own is None else own
    return build(items=items, settings=own, config=config(**changes), checkpoints=NoCheckpoints())


@cache
def base(codec: str = "vq") -> ImageModality:
    """A base over pictures of 16 x 16: 4 x 4 codes (vq) or 16 x 16 (colors)."""
    return new_base(pictures(8), settings(codec=codec))


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
