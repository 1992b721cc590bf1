"""Declare the options of the text adapter, and how the core recognizes its sources and models.

Imports only the standard library and the core's checks, so that help texts and the registry stay light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypergen.config import flag, read_by, require_at_least, require_text
from hypergen.errors import InputError
from hypergen.modality import ExportFormat

NAME = "text"  # of the modality; as the base in a record it means the embedded one
PAPER_RECIPE: dict[str, Any] = {"sequence_length": 256}  # arXiv 2412.04318, section 4; for a model without a card
MODEL_SUFFIXES = (".gguf",)  # of files that are a model
MODEL_FILES = ("adapter_config.json",)  # of a folder without config.json that is a model: a PEFT adapter
NAMED_BASES = ("smollm2-135m", "gemma-3-270m")  # `named_bases` has where they come from, and their cards
BUILT_IN_SOURCES = ("stories",)
SOURCES = (
    "a .txt, .jsonl, .json, .csv, .parquet or .arrow file, each also .gz, .bz2, .xz or .zst, a folder of them or of "
    "save_to_disk, stories, or hub:ID[:SPLIT]"
)
EXPORT_FORMATS = {
    "gguf": ExportFormat(suffix=".gguf", types=("f32", "bf16", "q8_0")),
    "safetensors": ExportFormat(suffix=".safetensors", types=("int8",)),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold the options that only text has."""

    sequence_length: int | None = field(default=None, metadata=read_by("pretrain", "fit"))
    """Tokens in one training sequence; the base's card says, else 256 (as in the paper), or the model's context where
    that is smaller."""
    prompt_length: int = field(default=32, metadata=read_by("fit", "generate"))
    """Tokens of a held-out text that are kept as the prompt of a comparison (paper: 32)."""
    text_field: str = "text"
    """Field of a row, or column of a table, that holds the text; data.text is the field text of the object in data.
    Rows without a field text may have messages, prompt and completion, or instruction and output: then only what the
    assistant says, or the completion, is learned."""
    hub_rows: int = 10_000
    """Most rows that are read from a hub data set, from its beginning."""

    pack: bool = field(default=False, metadata=read_by("fit"))
    """Join documents, an end token between two, before sequences are cut: for documents shorter than a sequence."""
    pad: bool = field(default=False, metadata=read_by("fit"))
    """Fill documents shorter than a sequence up with padding, which the loss leaves out, in place of skipping them."""
    chat: bool = field(default=False, metadata=read_by("generate"))
    """Continue prompts that are texts as a user's turns, written by the tokenizer's chat template."""
    offload: bool = field(default=False, metadata=read_by("fit", "generate"))
    """Blocks that are not trained stay in their safetensors files and are read when they run, one at a time: for models
    larger than memory whose last layers are trained. A completion reads the model once a token."""
    resident_blocks: int = field(default=0, metadata=read_by("fit", "generate"))
    """With --offload, last blocks that stay in memory; a fit raises it to the blocks that it trains."""

    def __post_init__(self) -> None:
        require_at_least(self, "sequence_length", 2)
        require_at_least(self, "prompt_length", 1)
        require_at_least(self, "hub_rows", 1)
        require_at_least(self, "resident_blocks", 0)
        require_text(self, "text_field")
        for name in ("pack", "pad", "chat", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{flag(name)} {getattr(self, name)!r}: must be true or false")
        if self.pack and self.pad:
            raise InputError("--pack and --pad: give one of them")


def recognizes(config: dict[str, Any]) -> bool:
    """Accept the content of any `config.json`: transformers may have a language model of its type.

    The registry asks the other modalities first; `checkpoint.read_config` refuses what is no language model.
    """
    return True
