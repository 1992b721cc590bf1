"""One table on one footing: the same prompts, the same length, every way of decoding a row.

Completions never stop at an end token here, so that all have the same number of tokens and none is padding. Overlap
with the training set stands beside diversity: a model that quotes is diverse, too.
Does not know: what a token means, how the model was trained, which rows there are (`lineup`).

Shape letters: N examples, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergen.agreement import agreement_values, choice_ranks, override_values, rank_shift_values, ranks, top_tokens
from hypergen.citation import CitationIndex, longest_overlap
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.generation import generate
from hypergen.measures import (
    bootstrap_interval,
    distinct,
    mattr_values,
    perplexity,
    prediction_values,
    repetition_values,
    ttr_values,
)

TEXT_TOKENS = 96  # compared new tokens where a completion has no fixed length (arXiv 2412.04318: TTR over 96)
FIGURE_ROWS = 16
SHOWN = ("base greedy", "base top-p", "hyperfitted greedy", "original")  # columns of the figure, where they are there
LONG_OVERLAP = 10  # tokens; longer runs shared with the training set count as quotation
GLANCE_ROWS = 16  # examples measured after each epoch

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


def require_count(option: str, asked: int | None, held_out: Tensor) -> None:
    """Refuse an option that asks for more prompts than there are."""
    if asked is not None and len(held_out) < asked:
        raise InputError(f"{option} {asked}: there are {len(held_out)} prompts that were not trained on")


def summary(values: Tensor, seed: int) -> dict[str, float]:
    """(B,) numbers -> their mean and its bootstrap 95 % interval; one number () -> itself, without an interval."""
    if values.ndim == 0 or bool(values.isnan().all()):
        return {"mean": values.double().nanmean().item()}
    low, high = bootstrap_interval(values, seed)
    return {"mean": values.double().nanmean().item(), "low": low, "high": high}


def summaries(values: dict[str, Tensor], seed: int) -> dict[str, dict[str, float]]:
    """`summary` of each, and `perplexity` where there is a loss: of the mean loss and of the ends of its interval,
    which a percentile allows (it moves with any rising function)."""
    numbers = {name: summary(value, seed) for name, value in values.items()}
    if "loss" in numbers:
        numbers["perplexity"] = {part: perplexity(value) for part, value in numbers["loss"].items()}
    return numbers


class Comparison:
    """Collects rows: name, completions (N, S), and the numbers of each with bootstrap 95 % intervals over examples."""

    def __init__(self, modality: Any, training: Tensor, held_out: Tensor, prompts: Tensor, num_new: int, seed: int):
        self.modality, self.training, self.held_out, self.prompts = modality, training, held_out, prompts
        self.num_new, self.seed = num_new, seed
        self.columns: dict[str, Tensor] = {}
        self.values: dict[str, dict[str, Tensor]] = {}
        self.records: list[Record] = []
        self.base: Any = None
        """The base's model, while it is in memory beside the others: what their choices are ranked by."""
        self.yardstick: Any = None
        """The modality's costlier measures (`Modality.yardstick`); none unless set."""
        self.remarks: dict[str, str] = {}
        """What is to be said about a row, by its name."""
        self._base_top: Tensor | None = None
        self._citations: dict[int, CitationIndex] = {}

    def add(
        self, name: str, decoding: DecodingConfig, *, model: Any = None, describe_model: bool = False
    ) -> dict[str, Tensor]:
        """Decode every prompt and measure the completions.

        Args:
            model: a TokenModel; by default the modality's, as it is now.
            describe_model: add what the model predicts on the held-out examples, and how far it agrees with the base:
                `base`, or else the model that was described first.

        Returns:
            The numbers, (N,) or () each.
        """
        model = self.modality.model if model is None else model
        citations = self._index(decoding.block_citations, model)
        completions = generate(model, self.prompts, self.num_new, decoding, citations=citations, label=name)
        values = self._values(completions)
        if describe_model:
            values |= self._described(model) | self._overridden(model, completions)
        return self.append(name, completions, values)

    def add_original(self, name: str = "original") -> dict[str, Tensor] | None:
        """The held-out examples themselves; nothing where they are shorter than the completions."""
        originals = self.held_out[:, self.prompts.shape[1] :][:, : self.num_new]
        return self.append(name, originals) if originals.shape[1] == self.num_new else None

    def append(self, name: str, completions: Tensor, values: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A row of completions (N, S) from elsewhere."""
        values = self._values(completions) if values is None else values
        self.columns[name], self.values[name] = completions, values
        self.records.append({"name": name, "values": summaries(values, self.seed)})
        return values

    @property
    def sizes(self) -> str:
        """What the numbers rest on."""
        count, length = self.prompts.shape
        return f"{count} prompts of {length} tokens, {self.num_new} new tokens each"

    @property
    def notes(self) -> dict[str, str]:
        """How the costlier measures were made, or why they are missing, and the remarks about rows."""
        measured = {} if self.yardstick is None else self.yardstick.notes(len(self.prompts))
        return measured | self.remarks

    def glance(self) -> dict[str, float]:
        """What an epoch changes, from the first examples: loss and entropy of the predictions on them, TTR and overlap
        of greedy completions."""
        model, prompts = self.modality.model, self.prompts[:GLANCE_ROWS]
        completions = generate(model, prompts, self.num_new, DecodingConfig(stop_at_end=False), label="")
        predicted = prediction_values(model, self.held_out[:GLANCE_ROWS])
        return {
            "held_out_loss": predicted["loss"].mean().item(),
            "entropy": predicted["entropy"].mean().item(),
            "ttr": ttr_values(completions).nanmean().item(),
            "overlap_mean": longest_overlap(completions, self.training).double().mean().item(),
        }

    def look_before(self) -> dict[str, float]:
        """What `glance` gave before the training, from the row of the base's greedy completions."""
        values = self.values["base greedy"]
        names = {"held_out_loss": "loss", "entropy": "entropy", "ttr": "ttr", "overlap_mean": "overlap_mean"}
        return {name: values[own][:GLANCE_ROWS].nanmean().item() for name, own in names.items()}

    def figure(self, rows: int = FIGURE_ROWS) -> Any:
        """What the modality shows of the first examples: pictures in a grid, texts in a table."""
        names = [name for name in self.columns if name in SHOWN] or list(self.columns)
        columns = {name: self.columns[name][:rows] for name in names}
        return self.modality.compare(self.prompts[:rows], columns)

    def _values(self, completions: Tensor) -> dict[str, Tensor]:
        overlap = longest_overlap(completions, self.training).double()
        own = self.modality.measures(self.prompts, completions)
        if self.yardstick is not None:
            own |= self.yardstick.measure(self.prompts, completions)
        return {
            **{name: torch.as_tensor(value) for name, value in own.items()},
            **{f"rep_{n}": repetition_values(completions, n) for n in (2, 3, 4)},
            **{f"distinct_{n}": torch.tensor(distinct(completions, n)) for n in (1, 2, 3, 4)},
            "ttr": ttr_values(completions),
            "mattr": mattr_values(completions),
            "overlap_mean": overlap,
            "overlap_over_10": (overlap > LONG_OVERLAP).double(),
            "overlap_max": overlap.max(),
        }

    def _described(self, model: Any) -> dict[str, Tensor]:
        values = prediction_values(model, self.held_out)
        top = top_tokens(model, self.held_out)
        if self._base_top is None:
            is_base = self.base is None or model is self.base
            self._base_top = top if is_base else top_tokens(self.base, self.held_out)
            if is_base:
                return values
        values |= agreement_values(top, self._base_top)
        if self.base is not None:
            values |= rank_shift_values(ranks(self.base, self.held_out, top))
        return values

    def _overridden(self, model: Any, completions: Tensor) -> dict[str, Tensor]:
        if self.base is None or model is self.base:
            return {}
        return override_values(choice_ranks(self.base, self.prompts, completions))

    def _index(self, length: int, model: Any) -> CitationIndex | None:
        if length and length not in self._citations:
            device = next(model.parameters()).device
            self._citations[length] = CitationIndex(self.training, length).to(device)
        return self._citations.get(length)
