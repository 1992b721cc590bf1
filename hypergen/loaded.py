"""`Run`: a loaded run or base, ready to continue prompts and to draw.

Does not know: what a token means, how a run came about.

Shape letters: B batch, P prompt, S completion, N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.generation import generate
from hypergen.kept_completions import Keep, decode_all

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
TRAINING_TOKENS, HELD_OUT_TOKENS = "training_tokens.safetensors", "held_out_tokens.safetensors"


def stored_tokens(folder: Path, name: str, num_tokens: int = 2**31) -> Tensor:
    """Stored sequences (N, T) of a run folder, ids below `num_tokens`.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise InputError(f"{path}: not there; only a hyperfitted run has it")
        tokens = load_file(path)["tokens"]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return checked_ids(str(path), tokens, num_tokens)


def checked_ids(where: str, ids: Any, num_tokens: int) -> Tensor:
    """Ids (N, T) as int64, looked at before they index an embedding (on a GPU a wrong one kills the process).

    Raises:
        InputError: another type or shape, or an id that is negative or not below `num_tokens`.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in WHOLE_NUMBERS or ids.ndim != 2:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"{where}: must be a (N, T) tensor of whole numbers, found {found}")
    for wrong in (ids.min(), ids.max()) if ids.numel() else ():
        if not 0 <= int(wrong) < num_tokens:
            raise InputError(f"{where}: has id {int(wrong)}; the model has ids from 0 to {num_tokens - 1}")
    return ids.long()


@dataclass
class Run:
    """A run folder (or base folder, or hub model) with its model in memory."""

    folder: Path
    modality: Any
    record: dict[str, Any]
    """What `hypergen.json` says; empty for a model that hypergen did not make."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The before/after table, one record a row; empty for a base."""
        return self.record.get("comparison", [])

    def tokens(self, name: str = TRAINING_TOKENS) -> Tensor:
        """Stored sequences (N, T): what was trained on, or the held-out ones (HELD_OUT_TOKENS).

        Raises:
            InputError: it is a base, which has none.
        """
        return stored_tokens(self.folder, name, self.modality.model.num_tokens)

    def generate(self, prompts: Any = None, *, max_new_tokens: int | None = None, **decoding: Any) -> list[Any]:
        """Continue prompts: texts give their continuations, pictures give whole pictures with a new lower part.

        Args:
            prompts: one item or several; None takes the prompts of the run's held-out sequences.
            max_new_tokens: None is 256, or the rest of the picture.
            decoding: fields of `DecodingConfig`, such as `strategy="top-p"` or `block_citations=5`.
        """
        rows = self.prompt_rows(prompts)
        return self.modality.assemble(rows, self.complete(rows, max_new_tokens, **decoding))

    def generate_tokens(self, prompt_ids: Tensor, max_new_tokens: int | None = None, **decoding: Any) -> Tensor:
        """(B, P) ids without start token, P >= 0 -> (B, S) ids of the completions, on the CPU.

        Raises:
            InputError: ids that are no whole numbers or that the model does not have.
        """
        prompt_ids = checked_ids("prompt ids", prompt_ids, self.modality.model.num_tokens)
        return self.complete(list(self.modality.begin(prompt_ids)), max_new_tokens, **decoding)

    def prompt_rows(self, prompts: Any = None) -> list[Tensor]:
        """Prompts as ids (P,) each, start token included; None: those of the held-out sequences."""
        if prompts is None:
            return list(self.modality.prompts(self.tokens(HELD_OUT_TOKENS)))
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            return [self.modality.encode_prompt(prompts)]
        return [self.modality.encode_prompt(item, number) for number, item in enumerate(prompts, 1)]

    def complete(
        self, rows: Sequence[Tensor], max_new_tokens: int | None = None, *, keep: Keep = decode_all, **decoding: Any
    ) -> Tensor:
        """Rows of `prompt_rows` -> (B, S) ids of their completions.

        Args:
            keep: what remembers completed batches (`kept_completions`); by default nothing does.
        """
        config = DecodingConfig(**decoding)
        model = self.modality.model
        citations = None
        if config.block_citations:
            citations = CitationIndex(self.tokens(), config.block_citations).to(next(model.parameters()).device)
        if max_new_tokens is None:
            max_new_tokens = self.modality.max_new_tokens(max((len(row) for row in rows), default=0))
        end = self.modality.end_token
        return generate(model, rows, max_new_tokens, config, end_token=end, citations=citations, keep=keep)

    def grid(self, rows: int = 8, **options: Any) -> Any:
        """Held-out sequences of the run, one below the other: prompt, completion, original.

        Args:
            rows: how many.
            options: settings of the modality (`prompt_fraction=0.25`) and fields of `DecodingConfig`.

        Returns:
            A PIL picture for images, an HTML fragment for text.
        """
        decoding = {name: value for name, value in options.items() if name in DecodingConfig.__dataclass_fields__}
        held_out = self.tokens(HELD_OUT_TOKENS)[:rows]
        prompts = self._with_settings({name: options[name] for name in options.keys() - decoding}).prompts(held_out)
        left = held_out.shape[1] - prompts.shape[1]
        completions = self.complete(list(prompts), left, **{"stop_at_end": False} | decoding)
        return self.modality.compare(prompts, {"completion": completions, "original": held_out[:, -left:]})

    def _with_settings(self, changes: dict[str, Any]) -> Any:
        return self.modality.with_settings(replace(self.modality.settings, **changes)) if changes else self.modality
