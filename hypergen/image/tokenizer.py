"""Define the contract of a picture tokenizer, make a new one, and find one in a folder.

`vq_tokenizer.VQTokenizer` and `color_tokenizer.ColorClusters` fulfil it. A codec has one picture size, and says
everything about itself in the files that it saves.

Shape letters: N pictures, S side in pixels, K codes, h w code grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from hypergen.config import PretrainConfig
from hypergen.errors import InputError
from hypergen.image import color_tokenizer, vq_tokenizer
from hypergen.image.color_tokenizer import ColorClusters
from hypergen.image.config import Settings
from hypergen.image.locate import locate
from hypergen.image.pixels import to_pixels
from hypergen.image.vq_tokenizer import VQTokenizer
from hypergen.image.vq_training import PATCH, train_vq
from hypergen.modality import CodecCheckpoints
from hypergen.runtime.devices import pick_device
from hypergen.runtime.progress import Advance, no_progress, track
from hypergen.storage.run_record import tensor_sha256
from hypergen.training.plan import TrainingHooks

IMAGE_SIZE, NUM_CODES = 32, 512  # of a new codec
BYTES_TO_FIT = 2**29  # of pixels that a new codec is fitted to, at most


class Codec(Protocol):
    """Converts pictures to codes and back. Pictures of any size are cut to their centre square and scaled."""

    num_codes: int  # K
    image_size: int  # side of a picture in pixels
    stride: int  # pixels a side that one code stands for
    grid: tuple[int, int]  # (h, w)
    resampling: Image.Resampling  # how pictures are scaled

    def encode(
        self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> Tensor:
        """Encode N pictures as codes (N, h * w) int64 on the CPU, row by row from the top left.

        Args:
            pictures: of any size.
            device: where it is computed.
            advance: told of each batch of pictures; a codec that is quick need not call it.
        """
        ...

    def decode(
        self, codes: Tensor, device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> list[Image.Image]:
        """Decode codes (N, h * w) into N pictures; see `encode`."""
        ...

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the codec into the folder of a base, so that `load_codec` finds it there."""
        ...


def new_codec(
    pictures: Sequence[Image.Image], settings: Settings, config: PretrainConfig, checkpoints: CodecCheckpoints
) -> Codec:
    """Load the codec of `config.codec_from`, or fit one to the pictures.

    Args:
        pictures: of any size.
        settings: codec and picture size.
        config: vocabulary, seed and device.
        checkpoints: where the training of a VQ codec is saved, and continued from.

    Raises:
        InputError: sizes that do not fit, or pictures or folders that cannot be read.
    """
    if config.codec_from is not None:
        return _given(config.codec_from, settings.image_size, config.vocabulary_size)
    size, num_codes = settings.image_size or IMAGE_SIZE, config.vocabulary_size or NUM_CODES
    if settings.codec == "colors":
        pixels = _pixels(pictures, size, ColorClusters.resampling, config.seed)
        return ColorClusters.fit(pixels, num_codes, size, config.seed)
    vq_tokenizer.check_divisible(size, PATCH)
    pixels = _pixels(pictures, size, VQTokenizer.resampling, config.seed)
    checkpoints = checkpoints.part(".", {"pictures of SHA-256": tensor_sha256(pixels)})
    network = train_vq(
        pixels,
        num_codes,
        settings.codec_steps,
        config.seed,
        pick_device(config.device),
        checkpoint_every=config.checkpoint_every,
        hooks=TrainingHooks(
            state=checkpoints.newest(),
            on_checkpoint=checkpoints.save,
            stop_signal=checkpoints.stop_signal,
            whole_steps=checkpoints.whole_steps,
        ),
    )
    return VQTokenizer(network, size)


def _given(name: str, image_size: int | None, vocabulary_size: int | None) -> Codec:
    """Load the codec of another base, and compare it with the sizes that were asked for."""
    codec = load_codec(locate(name), image_size)
    if vocabulary_size not in (None, codec.num_codes):
        raise InputError(f"--vocabulary-size {vocabulary_size}: --codec-from {name} has {codec.num_codes} codes")
    return codec


def _pixels(pictures: Sequence[Image.Image], size: int, resampling: Image.Resampling, seed: int) -> Tensor:
    """Read all pictures, or as many, drawn with `seed`, as BYTES_TO_FIT holds: -> (N, 3, S, S) uint8."""
    most = max(1, BYTES_TO_FIT // (3 * size**2))
    rows = torch.arange(len(pictures))
    if len(rows) > most:
        rows = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    pixels = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    with track("read pictures", len(rows), transient=True) as advance:
        for place, row in enumerate(rows.tolist()):
            pixels[place] = to_pixels([pictures[row]], size, resampling)[0]
            advance()
    return pixels


def load_codec(folder: Path, image_size: int | None = None) -> Codec:
    """Load the codec of a base (its `codec/`, or a palette), or from the folder of a diffusers VQModel.

    Args:
        folder: of the base or the VQModel.
        image_size: of pictures; by default the codec's own.

    Raises:
        InputError: there is none, it is damaged, or it cannot have this picture size.
    """
    for place in (folder / vq_tokenizer.SUBFOLDER, folder):
        if vq_tokenizer.is_vq_folder(place):
            return VQTokenizer.load(place, image_size)
    if (folder / color_tokenizer.FILE).is_file():
        return ColorClusters.load(folder, image_size)
    needed = f"{vq_tokenizer.SUBFOLDER}/ (a diffusers VQModel) or {color_tokenizer.FILE}"
    raise InputError(f"{folder}: no picture codec; needed is {needed}")
