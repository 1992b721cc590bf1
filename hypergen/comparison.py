"""One table on one footing: the same prompts, the same length, every way of decoding a row.

Completions never stop at an end token here, so that all have the same number of tokens and none is padding. Overlap
with the training set stands beside diversity: a model that quotes is diverse, too.
Does not know: what a token means, how the model was trained.

Shape letters: N examples, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergen.citation import longest_overlap
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.generation import generate
from hypergen.measures import bootstrap_interval, prediction_values, repetition_values, ttr_values

TEXT_TOKENS = 96  # compared new tokens where a completion has no fixed length (arXiv 2412.04318: TTR over 96)
FIGURE_ROWS = 16
LONG_OVERLAP = 10  # tokens; longer runs shared with the training set count as quotation

Record = dict[str, Any]


def new_tokens(held_out: Tensor, prompts: Tensor, has_fixed_length: bool) -> int:
    """How many tokens each compared completion has: all that is left of an example, or the first 96 of it."""
    left = held_out.shape[1] - prompts.shape[1]
    return left if has_fixed_length else min(TEXT_TOKENS, left)


def unseen(held_out: Tensor, training: Tensor) -> Tensor:
    """The held-out sequences (N, T) that are none of the training sequences.

    Raises:
        InputError: all of them are.
    """
    known = {row.numpy().tobytes() for row in training}
    kept = torch.tensor([row.numpy().tobytes() not in known for row in held_out])
    if not kept.any():
        raise InputError(f"held-out items: all {len(held_out)} sequences are trained on; name others")
    return held_out[kept]


class Comparison:
    """Collects rows: name, completions (N, S), and the numbers of each with bootstrap 95 % intervals over examples."""

    def __init__(self, modality: Any, training: Tensor, held_out: Tensor, prompts: Tensor, num_new: int, seed: int):
        self.modality, self.training, self.held_out, self.prompts = modality, training, held_out, prompts
        self.num_new, self.seed = num_new, seed
        self.columns: dict[str, Tensor] = {}
        self.records: list[Record] = []

    def add(self, name: str, decoding: DecodingConfig, *, describe_model: bool = False) -> None:
        """Decode every prompt with the modality's model as it is now.

        Args:
            describe_model: add the model's loss, entropy and top-1 probability on the held-out examples.
        """
        completions = generate(self.modality.model, self.prompts, self.num_new, decoding, label=name)
        values = self._values(completions)
        if describe_model:
            values |= prediction_values(self.modality.model, self.held_out)
        self._append(name, completions, values)

    def add_original(self, name: str = "original") -> None:
        """The held-out examples themselves, where they are as long as the completions."""
        originals = self.held_out[:, self.prompts.shape[1] :][:, : self.num_new]
        if originals.shape[1] == self.num_new:
            self._append(name, originals, self._values(originals))

    def figure(self, rows: int = FIGURE_ROWS) -> Any:
        """What the modality shows of the first examples: pictures in a grid, texts in a table."""
        columns = {name: completions[:rows] for name, completions in self.columns.items()}
        return self.modality.compare(self.prompts[:rows], columns)

    def _values(self, completions: Tensor) -> dict[str, Tensor]:
        overlap = longest_overlap(completions, self.training).double()
        per_row = [
            self.modality.measures(*rows) for rows in zip(self.prompts.split(1), completions.split(1), strict=True)
        ]
        own = {name: torch.tensor([row[name] for row in per_row]) for name in per_row[0]}
        return {
            **own,
            **{f"rep_{n}": repetition_values(completions, n) for n in (2, 3, 4)},
            "ttr": ttr_values(completions),
            "overlap_mean": overlap,
            "overlap_over_10": (overlap > LONG_OVERLAP).double(),
            "overlap_max": overlap.max(),
        }

    def _append(self, name: str, completions: Tensor, values: dict[str, Tensor]) -> None:
        self.columns[name] = completions
        self.records.append({"name": name, "values": {key: self._summary(value) for key, value in values.items()}})

    def _summary(self, values: Tensor) -> dict[str, float]:
        if values.ndim == 0:
            return {"mean": values.item()}
        low, high = bootstrap_interval(values, self.seed)
        return {"mean": values.double().nanmean().item(), "low": low, "high": high}
