"""The contract of a picture tokenizer, and how one is found in a folder.

`vq.VQTokenizer` and `colors.ColorClusters` fulfil it. A codec has one picture size, and says everything about itself in
the files that it saves.
Does not know: sequences, start tokens, transformers.

Shape letters: N pictures, K codes, h w code grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from hypergen.checkpoints import Checkpoints
from hypergen.config import PretrainConfig
from hypergen.errors import InputError
from hypergen.image import colors, vq
from hypergen.image.config import Settings
from hypergen.image.pixels import to_pixels
from hypergen.image.storage import locate
from hypergen.image.vq_training import PATCH, train_vq

IMAGE_SIZE, NUM_CODES = 32, 512  # of a new codec
BYTES_TO_FIT = 2**29  # pixels that a new codec is fitted to, at most


class Codec(Protocol):
    """Pictures <-> codes. Pictures of any size are cut to their centre square and scaled."""

    num_codes: int  # K
    image_size: int  # side of a picture in pixels
    stride: int  # pixels a side that one code stands for
    grid: tuple[int, int]  # (h, w)
    resampling: Image.Resampling  # how pictures are scaled

    def encode(self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu") -> Tensor:
        """N pictures -> (N, h * w) int64 codes on the CPU, row by row from the top left."""
        ...

    def decode(self, codes: Tensor, device: torch.device | str = "cpu") -> list[Image.Image]:
        """(N, h * w) codes -> N pictures."""
        ...

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Into the folder of a base, so that `load_codec` finds it there."""
        ...


def new_codec(
    pictures: Sequence[Image.Image], settings: Settings, config: PretrainConfig, checkpoints: Checkpoints | None = None
) -> Codec:
    """The codec of `config.codec_from`, or one fitted to the pictures.

    Args:
        checkpoints: where the training of a VQ codec is saved, and continued from.

    Raises:
        InputError: sizes that do not fit, or pictures or folders that cannot be read.
    """
    if config.codec_from is not None:
        return _given(config.codec_from, settings.image_size, config.vocabulary_size)
    size, num_codes = settings.image_size or IMAGE_SIZE, config.vocabulary_size or NUM_CODES
    if settings.codec == "colors":
        pixels = _pixels(pictures, size, colors.ColorClusters.resampling, config.seed)
        return colors.ColorClusters.fit(pixels, num_codes, size, config.seed)
    vq.check_divisible(size, PATCH)
    pixels = _pixels(pictures, size, vq.VQTokenizer.resampling, config.seed)
    resumable: dict[str, Any] = {}
    if checkpoints is not None:
        own = checkpoints.part(".", {"pictures of SHA-256": hashlib.sha256(pixels.numpy().tobytes()).hexdigest()})
        signals = own.signals
        resumable = {"state": own.newest(), "on_checkpoint": own.save, "stop_signal": signals.number}
        resumable |= {"whole_steps": signals.noting(), "checkpoint_every": config.checkpoint_every}
    network = train_vq(pixels, num_codes, config.codec_steps, config.seed, _device(config.device), **resumable)
    return vq.VQTokenizer(network, size)


def _given(name: str, image_size: int | None, vocabulary_size: int | None) -> Codec:
    codec = load_codec(locate(name), image_size)
    if vocabulary_size not in (None, codec.num_codes):
        raise InputError(f"--vocabulary-size {vocabulary_size}: --codec-from {name} has {codec.num_codes} codes")
    return codec


def _pixels(pictures: Sequence[Image.Image], size: int, resampling: Image.Resampling, seed: int) -> Tensor:
    """(N, 3, S, S) uint8 of all pictures, or of as many, drawn with `seed`, as BYTES_TO_FIT holds."""
    most = max(1, BYTES_TO_FIT // (3 * size**2))
    rows = torch.arange(len(pictures))
    if len(rows) > most:
        rows = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    pixels = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    for place, row in enumerate(rows.tolist()):
        pixels[place] = to_pixels([pictures[row]], size, resampling)[0]
    return pixels


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


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
