"""Compare completions row by row: each row continues the same prompts to the same length.

Completions never stop at an end token here, so that all have the same number of tokens and none is padding. Prompts
differ in length where a loss mask says where each example's completion begins. Overlap with the training set stands
beside diversity: a model that quotes is diverse, too.
Does not know what a token means, nor which rows there are (`baselines`).

Shape letters: N examples, M training sequences, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergen.config import DecodingConfig
from hypergen.data.loss_mask import cut_prompts, without_padding
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.evaluation.agreement import (
    agreement_values,
    choice_ranks,
    override_values,
    rank_shift_values,
    ranks,
    top_tokens,
)
from hypergen.evaluation.bootstrap import summaries
from hypergen.evaluation.diversity import distinct, mattr_values, repetition_values, ttr_values
from hypergen.evaluation.overlap import longest_overlap
from hypergen.evaluation.predictions import prediction_values
from hypergen.evaluation.records import Records
from hypergen.modality import Decoder, Figure, Modality, Predictor, ReferenceMetrics
from hypergen.report.columns import Columns
from hypergen.runtime.progress import track

FIGURE_ROWS = 16
LONG_OVERLAP = 10  # tokens; longer runs shared with the training set count as quotation
QUICK_ROWS = 16  # examples measured while a training runs


class ComparedModel(Predictor, Decoder, Protocol):
    """Predicts and decodes: what a row asks of its model."""


class Row(Protocol):
    """Describes a row to add: `baselines.Baseline`, or the like."""

    @property
    def name(self) -> str: ...
    @property
    def decoding(self) -> DecodingConfig: ...
    @property
    def describes(self) -> bool: ...


class Comparison:
    """Collect rows: a name, completions (N, S), and metrics with bootstrap 95 % intervals over the examples."""

    def __init__(
        self,
        modality: Modality,
        training: Tensor,
        held_out: Tensor,
        *,
        num_new: int,
        seed: int,
        base: ComparedModel | None = None,
        reference_metrics: ReferenceMetrics | None = None,
        training_mask: Tensor | None = None,
        held_out_mask: Tensor | None = None,
        columns: Columns | None = None,
    ):
        """Cut the prompts off the held-out examples; rows are added afterwards.

        Args:
            modality: gives prompts, cheap metrics, the figure, and the model of rows that name none.
            training: (M, T) tokens, with which overlap is measured and whose n-grams are blocked.
            held_out: (N, T) tokens of the examples.
            num_new: S of every completion.
            seed: of the bootstrap.
            base: the model by which the choices of others are ranked; it stays in memory beside them.
            reference_metrics: the modality's costlier metrics; left out by default.
            training_mask: loss mask (M, T) of the training tokens; its padding is no quotation.
            held_out_mask: loss mask (N, T) of the examples: where their prompts end, and which predictions are
                measured.
            columns: how the metrics are shown; by default the core's.
        """
        self.modality, self.training, self.held_out = modality, training, held_out
        self.training_mask, self.held_out_mask = training_mask, held_out_mask
        self.prompts = cut_prompts(modality, held_out, held_out_mask)
        """(N, P), or rows (P,) where they differ in length."""
        self.num_new, self.seed = num_new, seed
        self.base, self.reference_metrics = base, reference_metrics
        self.columns: dict[str, Tensor] = {}
        """Completions (N, S) by the name of their row."""
        self.values: dict[str, dict[str, Tensor]] = {}
        """Metrics, (N,) or () each, by the name of their row."""
        self.records = Records(columns=columns)
        """Rows of the table: name, and mean and interval of each metric."""
        self.remarks: dict[str, str] = {}
        """Notes on single rows, by name."""
        self._base_top: Tensor | None = None
        self._citations: dict[int, CitationIndex] = {}

    def __repr__(self) -> str:
        return f"<comparison of {len(self.records)} rows: {self.sizes}>"

    def _repr_html_(self) -> str:
        """Show the table in a notebook, and how much it rests on."""
        return f"{self.records._repr_html_()}\n<p>{self.sizes}</p>"

    def to_dataframe(self) -> Any:
        """Make a pandas DataFrame of `records`, flat."""
        return self.records.to_dataframe()

    def add(
        self,
        name: str,
        decoding: DecodingConfig,
        *,
        model: ComparedModel | None = None,
        describe_model: bool = False,
    ) -> dict[str, Tensor]:
        """Decode every prompt and measure the completions.

        Args:
            name: of the row.
            decoding: how.
            model: by default the modality's, in the state that it is in.
            describe_model: add metrics of the model's predictions on the held-out examples, and how far they agree
                with the base's: with those of `base`, or without one of the model that was described first.

        Returns:
            The metrics by name, (N,) or () each.
        """
        model = self.modality.model if model is None else model
        citations = self._index(decoding.block_citations, model)
        completions = generate(model, self.prompts, self.num_new, decoding, citations=citations, label=name)
        values = self._values(completions)
        if describe_model:
            values |= self._described(name, model) | self._overridden(name, model, completions)
        return self._append(name, completions, values)

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add rows that the modality's model decodes, in the state that it is in."""
        for row in rows:
            self.add(row.name, row.decoding, describe_model=row.describes)

    def add_original(self, name: str) -> dict[str, Tensor] | None:
        """Add the held-out examples themselves, unless they are shorter than the completions."""
        examples = without_padding(self.held_out, self.held_out_mask)
        ends = [len(prompt) + self.num_new for prompt in self.prompts]
        if any(len(example) < end for example, end in zip(examples, ends, strict=True)):
            return None
        originals = [example[end - self.num_new : end] for example, end in zip(examples, ends, strict=True)]
        return self.append(name, torch.stack(originals))

    def append(self, name: str, completions: Tensor) -> dict[str, Tensor]:
        """Measure and add completions (N, S) from elsewhere."""
        return self._append(name, completions, self._values(completions))

    @property
    def sizes(self) -> str:
        """Number and lengths of prompts and completions, in words."""
        lengths = [len(prompt) for prompt in self.prompts]
        shortest = "" if min(lengths) == max(lengths) else f"{min(lengths)} to "
        return f"{len(lengths)} prompts of {shortest}{max(lengths)} tokens, {self.num_new} new tokens each"

    @property
    def notes(self) -> dict[str, str]:
        """Remarks on rows, and on each costlier metric how it was computed or why it is missing; by name."""
        described = {} if self.reference_metrics is None else self.reference_metrics.describe(len(self.prompts))
        return described | self.remarks

    def quick_metrics(self) -> dict[str, float]:
        """Measure after an epoch: loss and entropy on the first examples, TTR and overlap of greedy completions."""
        model, prompts = self.modality.model, self.prompts[:QUICK_ROWS]
        completions = generate(model, prompts, self.num_new, DecodingConfig(stop_at_end=False), label="")
        loss_mask = None if self.held_out_mask is None else self.held_out_mask[:QUICK_ROWS]
        predicted = prediction_values(model, self.held_out[:QUICK_ROWS], loss_mask=loss_mask)
        return {
            "held_out_loss": predicted["loss"].mean().item(),
            "entropy": predicted["entropy"].mean().item(),
            "ttr": ttr_values(completions).nanmean().item(),
            "overlap_mean": self._overlap(completions).mean().item(),
        }

    def initial_metrics(self, row_name: str) -> dict[str, float]:
        """Compute `quick_metrics` as before the training, from the row of the base's greedy completions."""
        values = self.values[row_name]
        means = {
            name: values[name][:QUICK_ROWS].nanmean().item() for name in ("loss", "entropy", "ttr", "overlap_mean")
        }
        if self.held_out_mask is not None:  # values of predictions are relative to all examples' mean number of them
            counts = self.held_out_mask[:, 1:].sum(1).double()
            for name in ("loss", "entropy"):
                means[name] *= (counts.mean() / counts[:QUICK_ROWS].mean()).item()
        return {"held_out_loss": means.pop("loss"), **means}

    def figure(self, names: Sequence[str] | None = None, rows: int = FIGURE_ROWS) -> Figure:
        """Draw the completions of the first examples side by side, as the modality draws them.

        Args:
            names: rows of the table that become columns, where they are there; all, by default or where none is there.
            rows: examples.
        """
        shown = [name for name in self.columns if names is None or name in names] or list(self.columns)
        columns = {name: self.columns[name][:rows] for name in shown}
        return self.modality.comparison_figure(prompts=list(self.prompts[:rows]), columns=columns)

    def _append(self, name: str, completions: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        self.columns[name], self.values[name] = completions, values
        self.records.append({"name": name, "values": summaries(values, self.seed)})
        return values

    def _values(self, completions: Tensor) -> dict[str, Tensor]:
        """Compute every metric of completions (N, S): the modality's own, then the core's.

        The one place where the core's are computed: a new one is a line here, and a line in `report.columns` that says
        its head and meaning.
        """
        overlap = self._overlap(completions)
        shortest = min(len(prompt) for prompt in self.prompts)
        prompts = torch.stack([prompt[len(prompt) - shortest :] for prompt in self.prompts])  # their last tokens
        own = self.modality.metrics(prompts=prompts, completions=completions)
        if self.reference_metrics is not None:
            own |= self.reference_metrics.compute(prompts=prompts, completions=completions)
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

    def _overlap(self, completions: Tensor) -> Tensor:
        """Measure the longest run that each completion shares with a training sequence, (B,)."""
        return longest_overlap(completions, self.training, self.training_mask).double()

    def _described(self, name: str, model: ComparedModel) -> dict[str, Tensor]:
        """Measure a model's predictions on the held-out examples, and how far they agree with the base's."""
        held_out, loss_mask = self.held_out, self.held_out_mask
        # Without `base`, the model that is described first stands for it.
        is_base = self._base_top is None if self.base is None else model is self.base
        num_passes = 2 if is_base else 2 + (self._base_top is None) + (self.base is not None)
        with track(f"{name}: describe", num_passes * len(held_out), transient=True) as advance:
            values = prediction_values(model, held_out, loss_mask=loss_mask, advance=advance)
            top = top_tokens(model, held_out, advance=advance)
            if self._base_top is None:
                self._base_top = top
                if self.base is not None and not is_base:
                    self._base_top = top_tokens(self.base, held_out, advance=advance)
            if is_base:
                return values
            values |= agreement_values(top, self._base_top, loss_mask)
            if self.base is not None:
                values |= rank_shift_values(ranks(self.base, held_out, top, advance=advance), loss_mask)
            return values

    def _overridden(self, name: str, model: ComparedModel, completions: Tensor) -> dict[str, Tensor]:
        """Measure how often a model's completions leave the base's choices; nothing without another base."""
        if self.base is None or model is self.base:
            return {}
        with track(f"{name}: rank in the base", len(completions), transient=True) as advance:
            return override_values(choice_ranks(self.base, self.prompts, completions, advance=advance))

    def _index(self, length: int, model: ComparedModel) -> CitationIndex | None:
        """Index the training set's n-grams of `length` tokens, once, on the model's device; 0 blocks nothing."""
        if length and length not in self._citations:
            device = next(model.parameters()).device
            self._citations[length] = CitationIndex(self.training, length, self.training_mask).to(device)
        return self._citations.get(length)
