"""A learned code book as picture tokenizer: any `diffusers.VQModel`.

A network with 3 * p * p input channels reads patches of p x p pixels (`pixel_unshuffle`), so the stride of a code is
p * 2^(levels - 1) pixels; with the usual 3 channels p is 1. Loading reads safetensors only.
Does not know: how the network is trained (`vq_training`), sequences, transformers.

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
from torch.nn import functional as F

from hypergen.disk import follow_umask
from hypergen.errors import InputError
from hypergen.hub import first_line
from hypergen.image.pixels import chunks, from_unit, to_pictures, to_pixels, to_unit
from hypergen.image.vq_training import nearest
from hypergen.strict_json import read_object

SUBFOLDER = "codec"
BATCH_SIZE = 256  # pictures
BATCH_PIXELS = 2**18  # so fewer of large ones
LARGEST_SIDE, MOST_LAYERS = 8192, 100  # pixels of a picture; layers of a block


@final
class VQTokenizer:
    """Pictures <-> codes of a VQModel; see `codecs.Codec`."""

    resampling = Image.Resampling.BICUBIC

    def __init__(self, model: Any, image_size: int, where: str = "VQ codec"):
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
    def encode(self, pictures: Sequence[Image.Image], device: torch.device | str = "cpu") -> Tensor:
        """N pictures -> (N, h * w) codes."""
        self.model.to(device)
        codes = torch.empty(len(pictures), math.prod(self.grid), dtype=torch.long)
        for rows in chunks(len(pictures), self.batch_size):
            codes[rows] = self._codes(to_pixels(pictures[rows], self.image_size, self.resampling).to(device)).cpu()
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor, device: torch.device | str = "cpu") -> list[Image.Image]:
        """(N, h * w) codes -> N pictures."""
        self.model.to(device)
        pictures: list[Image.Image] = []
        for rows in chunks(len(codes), self.batch_size):
            vectors = self.model.quantize.embedding(codes[rows].to(device))  # (B, h * w, D)
            maps = vectors.transpose(1, 2).unflatten(2, self.grid)
            guide = maps if self.model.config.norm_type == "spatial" else None
            values = self.model.decoder(self.model.post_quant_conv(maps), guide)
            pictures += to_pictures(from_unit(F.pixel_shuffle(values, self.patch)))
        return pictures

    def _codes(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, h * w)."""
        latents = self.model.encode(F.pixel_unshuffle(to_unit(pixels), self.patch)).latents
        flat = latents.flatten(2).transpose(1, 2).flatten(0, 1)
        return nearest(flat, self.model.quantize.embedding.weight).view(len(pixels), -1)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """`codec/` with `config.json` and `diffusion_pytorch_model.safetensors`, readable by diffusers."""
        with _quiet():
            copy.deepcopy(self.model).to("cpu", dtype).save_pretrained(folder / SUBFOLDER, safe_serialization=True)
        path = folder / SUBFOLDER / "config.json"
        content = read_object(path)
        content.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        follow_umask(folder / SUBFOLDER)

    @classmethod
    def load(cls, folder: Path, image_size: int | None = None) -> VQTokenizer:
        """The folder of a VQModel -> fp32 weights; the size of pictures is the network's own unless given.

        Raises:
            InputError: damaged, incomplete, or the size does not fit the stride.
        """
        config, weights = read_object(folder / "config.json"), folder / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise InputError(f"{folder}: no {weights.name}; weights are read from safetensors only")
        _check_sizes(folder / "config.json", config, weights.stat().st_size)
        try:
            model = load_vq(folder)
        except Exception as error:  # whatever diffusers and safetensors raise
            raise InputError(f"{folder}: the VQModel cannot be loaded ({' '.join(str(error).split())[:300]})") from None
        patch = max(1, math.isqrt(model.config.in_channels // 3))
        return cls(model, image_size or config.get("sample_size", 32) * patch, str(folder))


def _check_sizes(path: Path, config: dict[str, Any], num_bytes: int) -> None:
    """A network is built before its weights are compared, so its size must be one that the weights can have."""
    for name, most in {"sample_size": LARGEST_SIDE, "layers_per_block": MOST_LAYERS}.items():
        value = config.get(name, 1)
        if type(value) is not int or not 0 < value <= most:
            raise InputError(f"{path}: {name} is {value!r}; must be a whole number from 1 to {most}")
    try:
        with torch.device("meta"), _quiet():
            model = VQModel.from_config(config)
            model.encode(torch.empty(1, model.config.in_channels, 64, 64))  # no numbers yet: only whether layers fit
    except Exception as error:  # whatever diffusers and torch raise
        raise InputError(f"{path}: is not one of a VQModel ({first_line(error)})") from None
    if (count := sum(weight.numel() for weight in model.parameters())) > num_bytes:
        raise InputError(f"{path}: says {count:,} weights, more than the {num_bytes:,} bytes of the file can hold")


def load_vq(folder: Path) -> Any:
    """Strictly: diffusers only logs missing and unexpected weights, here they are errors."""
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
    """No remarks of diffusers inside; what it loads is checked here."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_vq_folder(folder: Path) -> bool:
    """Whether `config.json` there says VQModel."""
    path = folder / "config.json"
    return path.is_file() and read_object(path).get("_class_name") == "VQModel"


def check_divisible(image_size: int, stride: int) -> None:
    """Raises InputError unless the picture's side is a multiple of the stride."""
    if image_size < stride or image_size % stride:
        raise InputError(f"--image-size {image_size}: must be a multiple of the codec's stride of {stride} pixels")
