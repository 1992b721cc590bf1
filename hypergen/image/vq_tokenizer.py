"""Tokenize pictures with a learned codebook: any `diffusers.VQModel`.

A network with 3 * p * p input channels reads patches of p x p pixels (`pixels.to_patches`), so the stride of a code is
p * 2^(levels - 1) pixels; with the usual 3 channels p is 1. Loading reads safetensors only.

Shape letters: N pictures, K codes, D code dimension, h w code grid.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from diffusers import VQModel
from PIL import Image
from torch import Tensor

from hypergen.errors import InputError
from hypergen.image.codebook import nearest, to_maps, to_vectors
from hypergen.image.pixels import (
    LARGEST_SIDE,
    chunks,
    from_patches,
    from_unit,
    to_patches,
    to_pictures,
    to_pixels,
    to_unit,
)
from hypergen.runtime.console import first_line
from hypergen.runtime.progress import Advance, no_progress
from hypergen.storage.atomic import follow_umask
from hypergen.storage.strict_json import read_object

SUBFOLDER = "codec"
BATCH_SIZE = 256  # pictures
BATCH_PIXELS = 2**18  # so fewer of large ones
MOST_LAYERS = 100  # of a block


@final
class VQTokenizer:
    """Convert pictures to codes of a VQModel, and back; see `tokenizer.Codec`."""

    resampling = Image.Resampling.BICUBIC

    def __init__(self, model: VQModel, image_size: int, where: str = "VQ codec"):
        self.patch = math.isqrt(model.config.in_channels // 3)
        if 3 * self.patch**2 != model.config.in_channels or model.config.out_channels != model.config.in_channels:
            channels = f"{model.config.in_channels} in and {model.config.out_channels} out"
            raise InputError(f"{where}: channels are {channels}; allowed are 3 * p^2 for both")
        self.stride = self.patch * 2 ** (len(model.config.down_block_types) - 1)
        check_divisible(image_size, self.stride)
        self.model = model.eval().requires_grad_(False)
        self.model.register_to_config(sample_size=image_size // self.patch)
        self.image_size = image_size
        self.num_codes: int = model.config.num_vq_embeddings
        self.grid = (image_size // self.stride, image_size // self.stride)
        self.batch_size = max(1, min(BATCH_SIZE, BATCH_PIXELS // image_size**2))

    @torch.no_grad()
    def encode(
        self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> Tensor:
        """Encode N pictures as codes (N, h * w)."""
        self.model.to(device)
        codes = torch.empty(len(pictures), math.prod(self.grid), dtype=torch.long)
        for rows in chunks(len(pictures), self.batch_size):
            codes[rows] = self._codes(to_pixels(pictures[rows], self.image_size, self.resampling).to(device)).cpu()
            advance(rows.stop - rows.start)
        return codes

    @torch.no_grad()
    def decode(
        self, codes: Tensor, device: torch.device | str = "cpu", *, advance: Advance = no_progress
    ) -> list[Image.Image]:
        """Decode codes (N, h * w) into N pictures."""
        self.model.to(device)
        pictures: list[Image.Image] = []
        for rows in chunks(len(codes), self.batch_size):
            maps = to_maps(self.model.quantize.embedding(codes[rows].flatten().to(device)), self.grid)
            guide = maps if self.model.config.norm_type == "spatial" else None
            values = self.model.decoder(self.model.post_quant_conv(maps), guide)
            pictures += to_pictures(from_unit(from_patches(values, self.patch)))
            advance(rows.stop - rows.start)
        return pictures

    def _codes(self, pixels: Tensor) -> Tensor:
        """Find the codes of one batch: (B, 3, S, S) uint8 -> (B, h * w)."""
        latents = self.model.encode(to_patches(to_unit(pixels), self.patch)).latents
        return nearest(to_vectors(latents), self.model.quantize.embedding.weight).view(len(pixels), -1)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write `codec/`, with `config.json` and `diffusion_pytorch_model.safetensors` as diffusers reads them."""
        with _quiet():
            copy.deepcopy(self.model).to("cpu", dtype).save_pretrained(folder / SUBFOLDER, safe_serialization=True)
        path = folder / SUBFOLDER / "config.json"
        content = read_object(path)
        content.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        follow_umask(folder / SUBFOLDER)

    @classmethod
    def load(cls, folder: Path, image_size: int | None = None) -> VQTokenizer:
        """Load the folder of a VQModel, with fp32 weights.

        Args:
            folder: has `config.json` and weights in safetensors.
            image_size: of pictures; by default the network's own.

        Raises:
            InputError: damaged, incomplete, or the size does not fit the stride.
        """
        config, weights = read_object(folder / "config.json"), folder / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise InputError(f"{folder}: no {weights.name}; weights are read from safetensors only")
        _check_sizes(folder / "config.json", config, weights.stat().st_size)
        try:
            model = load_vq(folder)
        except Exception as error:  # any of diffusers and safetensors
            raise InputError(f"{folder}: the VQModel cannot be loaded ({' '.join(str(error).split())[:300]})") from None
        patch = max(1, math.isqrt(model.config.in_channels // 3))
        return cls(model, image_size or config.get("sample_size", 32) * patch, str(folder))


def _check_sizes(path: Path, config: dict[str, Any], num_bytes: int) -> None:
    """Refuse a configuration that the file of weights cannot belong to, because the network is built first."""
    for name, most in {"sample_size": LARGEST_SIDE, "layers_per_block": MOST_LAYERS}.items():
        value = config.get(name, 1)
        if type(value) is not int or not 0 < value <= most:
            raise InputError(f"{path}: {name} is {value!r}; must be a whole number from 1 to {most}")
    try:
        with torch.device("meta"), _quiet():
            model = VQModel.from_config(config)
            model.encode(torch.empty(1, model.config.in_channels, 64, 64))  # no numbers yet: only whether layers fit
    except Exception as error:  # any of diffusers and torch
        raise InputError(f"{path}: is not one of a VQModel ({first_line(error)})") from None
    if (count := sum(weight.numel() for weight in model.parameters())) > num_bytes:
        raise InputError(f"{path}: says {count:,} weights, more than the {num_bytes:,} bytes of the file can hold")


def load_vq(folder: Path) -> VQModel:
    """Load a VQModel strictly: missing and unexpected weights, which diffusers only logs, are errors here."""
    with _quiet(), torch.random.fork_rng(devices=[]):
        model, report = VQModel.from_pretrained(
            str(folder),
            use_safetensors=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise ValueError("; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items()))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the remarks of diffusers, because all that it loads is checked here."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_vq_folder(folder: Path) -> bool:
    """Tell whether `config.json` in a folder is of a VQModel."""
    path = folder / "config.json"
    return path.is_file() and read_object(path).get("_class_name") == "VQModel"


def check_divisible(image_size: int, stride: int) -> None:
    """Refuse a picture's side that is no multiple of the stride."""
    if image_size < stride or image_size % stride:
        raise InputError(f"--image-size {image_size}: must be a multiple of the codec's stride of {stride} pixels")
