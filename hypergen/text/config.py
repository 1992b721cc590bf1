"""Every default of the text adapter. Imports only the standard library and the core's checks."""

from __future__ import annotations

from dataclasses import dataclass

from hypergen.config import require_at_least, require_text
from hypergen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that only text has."""

    sequence_length: int | None = None
    """Tokens in one training sequence; the base's card says, else 256 (as in the paper)."""
    prompt_length: int = 32
    """Tokens of a held-out text that are kept as the prompt of a comparison (paper: 32)."""
    text_field: str = "text"
    """Field of a JSON Lines row, or column of a hub data set, that holds the text."""
    hub_rows: int = 10_000
    """Most rows that are read from a hub data set, from its beginning."""

    offload: bool = False
    """Blocks that are not trained stay in their safetensors files and are read when they run, one at a time: for models
    larger than memory whose last layers are trained. A completion reads the model once a token."""

    def __post_init__(self) -> None:
        require_at_least(self, "sequence_length", 2)
        require_at_least(self, "prompt_length", 1)
        require_at_least(self, "hub_rows", 1)
        require_text(self, "text_field")
        if not isinstance(self.offload, bool):
            raise InputError(f"--offload {self.offload!r}: must be true or false")
