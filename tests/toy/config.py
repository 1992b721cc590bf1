"""Every default of the toy adapter. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypergen.modality import ExportFormat

PAPER_RECIPE: dict[str, Any] = {}
MODEL_SUFFIXES = (".toy",)
MODEL_FILES = ("toy.json",)
NAMED_BASES = ("toy-zero",)
BUILT_IN_SOURCES = ("numbers",)
SOURCES = "numbers, or a .jsonl file with one list of numbers a line"

EXPORT_FORMATS = {"sizes": ExportFormat(suffix=".json", types=("count", "sum"))}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that only integers have."""

    modulus: int = 16
    """Numbers run from 0 to this minus 1."""
    sequence_length: int = 16
    """Tokens in one training sequence, start token included."""
    prompt_length: int = 4
    """Tokens of a sequence that are its prompt, start token included."""
    masked: bool = False
    """The first half of an item is a prompt, whose tokens the loss leaves out, as it does what fills short items up."""


def recognizes(config: dict[str, Any]) -> bool:
    """Tell the content of a `config.json` of this modality."""
    return config.get("model_type") == "toy"
