"""Compare completions row by row: each row continues the same prompts to the same length.

Completions of whole texts and pictures never stop at an end token here, so that all have the same number of tokens and
none is padding. Examples with a loss mask are answers: their prompts end where the first answer begins, and each
completion is measured up to its end token. Overlap with the training set stands beside diversity: a model that quotes
is diverse, too.
Does not know what a token means, nor which rows there are (`baselines`).

Shape letters: N examples, M training sequences, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergen.config import LONG_OVERLAP, DecodingConfig
from hypergen.data.loss_mask import cut_originals, cut_prompts
from hypergen.decoding.end_tokens import stack, trim
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
from hypergen.evaluation.example import example_of
from hypergen.evaluation.overlap import longest_overlap
from hypergen.evaluation.predictions import prediction_values
from hypergen.evaluation.quotation import quoted_run, recited_rows
from hypergen.evaluation.records import Records
from hypergen.modality import Decoder, Figure, Modality, Predictor, ReferenceMetrics
from hypergen.report.columns import Columns
from hypergen.report.verdicts import BASE_GREEDY, ORIGINAL, OURS, Quotation, Verdict, judge, shown_title
from hypergen.runtime.progress import track

FIGURE_ROWS = 16
FIGURE_RECITED = 4  # examples behind those that are shown as well, at most, where a completion recites
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
            num_new: S of every completion; with a mask the most that an answer may have.
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
        self.end_tokens = () if held_out_mask is None else modality.end_tokens
        """Ids that end an answer; none for examples without a mask, which have no end of their own."""
        self.num_new, self.seed = num_new, seed
        self.base, self.reference_metrics = base, reference_metrics
        self.columns: dict[str, Tensor] = {}
        """Completions (N, S) by the name of their row, an answer filled up behind its end."""
        self.values: dict[str, dict[str, Tensor]] = {}
        """Metrics, (N,) or () each, by the name of their row."""
        self.records = Records(columns=columns)
        """Rows of the table: name, and mean and interval of each metric."""
        self.remarks: dict[str, str] = {}
        """Notes on single rows, by name."""
        self.verdict: Verdict | None = None
        """Whether the run is hyperfitted, once `judge` has said so."""
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
        completions = self._complete(model, self.prompts, decoding, citations=citations, label=name)
        values = self._values(completions)
        if describe_model:
            values |= self._described(name, model) | self._overridden(name, model, completions)
        return self._append(name, completions, values)

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add rows that the modality's model decodes, in the state that it is in."""
        for row in rows:
            self.add(row.name, row.decoding, describe_model=row.describes)

    def add_original(self, name: str) -> dict[str, Tensor] | None:
        """Add the held-out examples themselves, unless they are no answers and shorter than the completions."""
        originals = cut_originals(self.held_out, self.held_out_mask, self.prompts, self.num_new)
        if not self.end_tokens and min(map(len, originals)) < self.num_new:
            return None
        return self.append(name, originals)

    def append(self, name: str, completions: Sequence[Tensor] | Tensor) -> dict[str, Tensor]:
        """Measure and add completions from elsewhere: (N, S), or N rows (S,) of answers."""
        completions = stack(list(completions), self.end_tokens)
        return self._append(name, completions, self._values(completions))

    @property
    def sizes(self) -> str:
        """Number and lengths of prompts and completions, in words."""
        lengths = [len(prompt) for prompt in self.prompts]
        shortest = "" if min(lengths) == max(lengths) else f"{min(lengths)} to "
        most = "at most " if self.end_tokens else ""
        return f"{len(lengths)} prompts of {shortest}{max(lengths)} tokens, {most}{self.num_new} new tokens each"

    @property
    def notes(self) -> dict[str, str]:
        """Remarks on rows, and on each costlier metric how it was computed or why it is missing; by name."""
        described = {} if self.reference_metrics is None else self.reference_metrics.describe(len(self.prompts))
        return described | self.remarks

    def quick_metrics(self) -> dict[str, float]:
        """Measure after an epoch: loss and entropy on the first examples, TTR and overlap of greedy completions."""
        model, prompts = self.modality.model, self.prompts[:QUICK_ROWS]
        answers = trim(self._complete(model, prompts, DecodingConfig(stop_at_end=False), label=""), self.end_tokens)
        loss_mask = None if self.held_out_mask is None else self.held_out_mask[:QUICK_ROWS]
        predicted = prediction_values(model, self.held_out[:QUICK_ROWS], loss_mask=loss_mask)
        return {
            "held_out_loss": predicted["loss"].mean().item(),
            "entropy": predicted["entropy"].mean().item(),
            "ttr": ttr_values(answers).nanmean().item(),
            "overlap_mean": self._overlap(answers).mean().item(),
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

        Those that recite the training set stand out; a few of the run's that lie behind the first examples are added.
        The titles follow the verdict.

        Args:
            names: rows of the table that become columns, where they are there; all, by default or where none is there.
            rows: examples.
        """
        shown = [name for name in self.columns if names is None or name in names] or list(self.columns)
        recited = {name: recited_rows(self.values[name]["overlap_mean"]) for name in shown}
        behind = [row for row in recited.get(OURS, []) if row >= rows]
        examples = [*range(min(rows, len(self.prompts))), *sorted(behind[:FIGURE_RECITED])]
        titles = {name: shown_title(name, self.verdict) for name in shown}
        return self.modality.comparison_figure(
            prompts=[self.prompts[row] for row in examples],
            columns={titles[name]: self.columns[name][examples] for name in shown},
            recited={
                titles[name]: [place for place, row in enumerate(examples) if row in recited[name]] for name in shown
            },
        )

    def judge(self, columns: Columns, losses: tuple[float, float] | None) -> Verdict | None:
        """Say whether the run is hyperfitted, and what its greedy completions quote; keep it as `verdict`.

        Args:
            columns: which metric that is about.
            losses: training loss of the first and of the last epoch, nats per token; None: unknown.

        Returns:
            None where the base's greedy row, the run's, or an interval is missing.
        """
        quotation = self._quotation(OURS) if OURS in self.columns else None
        self.verdict = judge(self.records, columns, losses=losses, quotation=quotation)
        return self.verdict

    def example(self, number: int = 0) -> dict[str, Any] | None:
        """Render one example in words (`evaluation.example`), the base's greedy completion and the run's.

        None where items have no text.
        """
        before, after = (trim(self.columns[name], self.end_tokens)[number] for name in (BASE_GREEDY, OURS))
        return example_of(self.modality, self.prompts[number], before, after)

    def _quotation(self, name: str) -> Quotation:
        overlap, completions = self.values[name]["overlap_mean"], trim(self.columns[name], self.end_tokens)
        worst = int(overlap.argmax())
        longest, rows = int(overlap[worst]), recited_rows(overlap)
        text = None
        if rows:
            run = quoted_run(completions[worst], self.training, self.training_mask, longest)
            (item,) = self.modality.render(prompts=[self.prompts[worst]], completions=run[None])
            text = self.modality.as_text(item)
        known = 0
        if ORIGINAL in self.columns:
            originals = trim(self.columns[ORIGINAL], self.end_tokens)
            shared = self.values[ORIGINAL]["overlap_mean"].tolist()
            known = sum(LONG_OVERLAP < len(row) == length for row, length in zip(originals, shared, strict=True))
        return Quotation(
            recited=len(rows),
            of=len(completions),
            longest=longest,
            length=len(completions[worst]),
            example=worst + 1,
            text=text,
            known_originals=known,
        )

    def _complete(
        self,
        model: ComparedModel,
        prompts: Sequence[Tensor] | Tensor,
        decoding: DecodingConfig,
        *,
        citations: CitationIndex | None = None,
        label: str,
    ) -> Tensor:
        """Complete prompts; an answer stops at its end."""
        decoding = replace(decoding, stop_at_end=bool(self.end_tokens))
        return generate(
            model, prompts, self.num_new, decoding, end_tokens=self.end_tokens, citations=citations, label=label
        )

    def _append(self, name: str, completions: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        self.columns[name], self.values[name] = completions, values
        self.records.append({"name": name, "values": summaries(values, self.seed)})
        return values

    def _values(self, whole: Tensor) -> dict[str, Tensor]:
        """Compute every metric of completions (N, S), of answers up to their end: the modality's own, then the core's.

        The one place where the core's are computed: a new one is a line here, and a line in `report.columns` that says
        its head and meaning.
        """
        completions = trim(whole, self.end_tokens)
        overlap = self._overlap(completions)
        shortest = min(len(prompt) for prompt in self.prompts)
        prompts = torch.stack([prompt[len(prompt) - shortest :] for prompt in self.prompts])  # their last tokens
        own = self.modality.metrics(prompts=prompts, completions=whole)
        if self.reference_metrics is not None:
            own |= self.reference_metrics.compute(prompts=prompts, completions=whole)
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

    def _overlap(self, completions: Sequence[Tensor]) -> Tensor:
        """Measure the longest run that each completion (S,) shares with a training sequence, (B,)."""
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
            found = choice_ranks(self.base, self.prompts, completions, self.end_tokens, advance=advance)
            return override_values(found)

    def _index(self, length: int, model: ComparedModel) -> CitationIndex | None:
        """Index the training set's n-grams of `length` tokens, once, on the model's device; 0 blocks nothing."""
        if length and length not in self._citations:
            device = next(model.parameters()).device
            self._citations[length] = CitationIndex(self.training, length, self.training_mask).to(device)
        return self._citations.get(length)
