"""Every default of the image adapter. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that only pictures have."""

    codec: Literal["vq", "colors"] = "vq"
    """Tokenizer of a new base (pretrain): vq (a learned code book) or colors (ImageGPT's palette)."""
    image_size: int | None = None
    """Side of a picture in pixels; a base knows its own, a new one takes 32."""
    prompt_fraction: float = 0.25
    """Share of a picture's rows, from the top, that is kept as the prompt (0 to below 1)."""
    mirror: bool = False
    """Where everything is encoded (pretrain), also the mirrored pictures."""
