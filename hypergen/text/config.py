"""Every default of the text adapter. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that only text has."""

    sequence_length: int = 256
    """Tokens in one training sequence (paper: 256)."""
    prompt_length: int = 32
    """Tokens of a held-out text that are kept as the prompt of a comparison (paper: 32)."""
    text_field: str = "text"
    """Field of a JSON Lines row, or column of a hub data set, that holds the text."""
