"""Declare the options of the image adapter, and recognize its models, without torch or PIL.

Imports the standard library and the core's checks alone, so that `--help` lists these options at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hypergen.config import read_by, require_at_least, require_choice
from hypergen.errors import InputError
from hypergen.modality import ExportFormat

CodecName = Literal["vq", "colors"]

PAPER_RECIPE: dict[str, Any] = {}  # the paper's values for a model without a card are all options of the core
MODEL_SUFFIXES: tuple[str, ...] = ()
MODEL_FILES: tuple[str, ...] = ()
NAMED_BASES: tuple[str, ...] = ()
BUILT_IN_SOURCES = ("cifar10",)
SOURCES = "cifar10, a folder, zip or file of pictures, or hub:ID[:SPLIT]"
EXPORT_FORMATS: dict[str, ExportFormat] = {}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold the options that only pictures have."""

    codec: CodecName = field(default="vq", metadata=read_by("pretrain"))
    """Tokenizer of a new base: vq (a learned code book) or colors (ImageGPT's palette)."""
    codec_steps: int = field(default=3000, metadata=read_by("pretrain"))
    """Optimizer steps of a VQ codec."""
    image_size: int | None = field(default=None, metadata=read_by("pretrain"))
    """Side of a picture in pixels; by default 32."""
    prompt_fraction: float = field(default=0.25, metadata=read_by("fit", "generate"))
    """Share of a picture's rows, from the top, that is kept as the prompt (0 to below 1)."""
    mirror: bool = field(default=False, metadata=read_by("pretrain"))
    """Train on the mirrored pictures, too."""

    def __post_init__(self) -> None:
        require_choice(self, "codec", CodecName)
        require_at_least(self, "codec_steps", 1)
        require_at_least(self, "image_size", 1)
        fraction = self.prompt_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
            raise InputError(f"--prompt-fraction {fraction!r}: must be 0 or more and below 1")
        if not isinstance(self.mirror, bool):
            raise InputError(f"--mirror {self.mirror!r}: must be true or false")


def recognizes(config: Mapping[str, Any]) -> bool:
    """Tell from the content of a `config.json` whether it is of an ImageGPT."""
    return config.get("model_type") == "imagegpt"
