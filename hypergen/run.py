"""Hold a loaded run or base, to complete prompts and draw figures of the completions.

Shape letters: B batch, P prompt, S completion, N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen import registry
from hypergen.config import DecodingConfig, ExportConfig, flag
from hypergen.data.loss_mask import cut_originals, cut_prompts, num_completed
from hypergen.decoding.completion_journal import BatchStore, no_store
from hypergen.decoding.end_tokens import stack
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.errors import InputError
from hypergen.evaluation.interpolation import interpolated, require_whole
from hypergen.modality import Item, Modality
from hypergen.options import ResolvedExport, base_of, split_options
from hypergen.report.verdicts import Verdict
from hypergen.runtime.progress import track
from hypergen.storage.atomic import write_file
from hypergen.storage.file_names import HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.storage.token_files import checked_ids, stored_loss_mask, stored_tokens


@dataclass
class Run:
    """A run folder (or base folder, or hub model) with its model in memory."""

    folder: Path
    modality: Modality
    record: dict[str, Any]
    """Content of `hypergen.json`; empty for a model that hypergen did not make."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The before/after table, one record a row; empty for a base."""
        records: list[dict[str, Any]] = self.record.get("comparison", [])
        return records

    @property
    def verdict(self) -> Verdict | None:
        """Whether the run is hyperfitted, in sentences (`print(run.verdict)`); None for a base."""
        return Verdict.of_record(self.record)

    def tokens(self, name: str = TRAINING_TOKENS) -> Tensor:
        """Read stored sequences (N, T): the training set, or the held-out ones (HELD_OUT_TOKENS).

        Raises:
            InputError: it is a base, which has none.
        """
        return stored_tokens(self.folder, name, self.modality.model.num_tokens)

    def loss_mask(self, name: str = TRAINING_TOKENS) -> Tensor | None:
        """Read which of `tokens` the loss counts (N, T), such as those of the completions; None where all do."""
        return stored_loss_mask(self.folder, name)

    def generate(self, prompts: Any = None, *, max_new_tokens: int | None = None, **decoding: Any) -> list[Item]:
        """Continue prompts: texts give their continuations, pictures give whole pictures with a new lower part.

        Args:
            prompts: one item or several; None takes the prompts of the run's held-out sequences.
            max_new_tokens: None is 256, or the rest of the picture.
            decoding: fields of `DecodingConfig`, such as `strategy="top-p"` or `block_citations=5`.
        """
        rows = self.prompt_rows(prompts)
        return self.modality.render(
            prompts=rows, completions=self.complete(rows, DecodingConfig(**decoding), max_new_tokens)
        )

    def generate_tokens(self, prompt_ids: Tensor, max_new_tokens: int | None = None, **decoding: Any) -> Tensor:
        """Continue prompts given as ids: (B, P) without start token, P >= 0 -> (B, S) on the CPU.

        Raises:
            InputError: ids that are no whole numbers or that the model does not have.
        """
        prompt_ids = checked_ids("prompt ids", prompt_ids, self.modality.model.num_tokens)
        rows = list(self.modality.add_start_tokens(prompt_ids))
        return self.complete(rows, DecodingConfig(**decoding), max_new_tokens)

    def prompt_rows(self, prompts: Any = None) -> list[Tensor]:
        """Encode prompts as ids (P,) each, start token included; None: those of the held-out sequences."""
        if prompts is None:
            return list(cut_prompts(self.modality, self.tokens(HELD_OUT_TOKENS), self.loss_mask(HELD_OUT_TOKENS)))
        if self.modality.is_item(prompts) or not isinstance(prompts, Sequence):
            return [self.modality.encode_prompt(prompts)]
        rows = []
        with track("encode prompts", len(prompts), transient=True) as advance:
            for number, item in enumerate(prompts, 1):
                rows.append(self.modality.encode_prompt(item, number=number))
                advance()
        return rows

    def complete(
        self,
        rows: Sequence[Tensor],
        decoding: DecodingConfig,
        max_new_tokens: int | None = None,
        *,
        batch_store: BatchStore = no_store,
        on_tokens: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Complete rows of `prompt_rows`: -> (B, S) ids.

        Args:
            rows: ids (P,) each.
            decoding: the strategy.
            max_new_tokens: None is the modality's choice.
            batch_store: keeps completed batches (`completion_journal`); by default nothing does.
            on_tokens: is shown the completions of a batch so far (B, S) after each token; a search shows none.
        """
        model = self.modality.model
        citations = None
        if decoding.block_citations:
            device = next(model.parameters()).device
            citations = CitationIndex(self.tokens(), decoding.block_citations, self.loss_mask()).to(device)
        if max_new_tokens is None:
            max_new_tokens = self.modality.max_new_tokens(max((len(row) for row in rows), default=0))
        return generate(
            model,
            rows,
            max_new_tokens,
            decoding,
            end_tokens=self.modality.end_tokens,
            citations=citations,
            batch_store=batch_store,
            on_tokens=on_tokens,
        )

    def interpolate(self, alpha: float, *, allow_pickle_weights: bool = False) -> Run:
        """Mix the weights with those of the base: (1 - alpha) * base + alpha * run; this run stays as it was.

        Args:
            alpha: 0 is the base that the run's record names, 1 the run.
            allow_pickle_weights: read a base whose weights are pickled (.bin).

        Raises:
            InputError: no number from 0 to 1, the base is not there or has other weights, or a model is offloaded.
        """
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise InputError(f"alpha {alpha!r}: must be a number from 0 (the base) to 1 (the run)")
        require_whole(self.modality.model, "run")
        name = self.modality.name
        base = registry.adapter(name).load(
            source=base_of(self.folder, self.record.get("base"), name),
            settings=self.modality.settings,
            allow_pickle_weights=allow_pickle_weights,
        )
        model = interpolated(base.model, self.modality.model, alpha)
        of_run = ("comparison", "verdict", "example")  # of the run itself
        record = {key: value for key, value in self.record.items() if key not in of_run}
        return Run(self.folder, self.modality.with_model(model), record | {"interpolated": alpha})

    def export(self, config: ExportConfig | None = None, **options: Any) -> Path:
        """Write the model and its codec into one file that another program reads, such as GGUF for llama.cpp.

        Args:
            config: ready-made options; else every field of `ExportConfig` is a keyword: `format`, `type`, `output`.
            options: those keywords.

        Returns:
            The file.

        Raises:
            InputError: there is no such format or type, it has no equal of this model, or the file is there already.
        """
        given, others = split_options(ExportConfig, config, options)
        if others:
            raise InputError(f"{flag(min(others))}: not an option of export")
        resolved = ResolvedExport.of(given, self.modality.name, self.folder)
        write, title = registry.adapter(self.modality.name).EXPORT_WRITERS[resolved.format], resolved.file.stem
        write_file(resolved.file, lambda file: write(self.modality, file, type=resolved.type, title=title))
        return resolved.file

    def grid(self, rows: int = 8, **options: Any) -> Any:
        """Draw held-out sequences of the run, one below the other: prompt, completion, original.

        Args:
            rows: how many.
            options: settings of the modality (`prompt_fraction=0.25`) and fields of `DecodingConfig`.

        Returns:
            A PIL picture for images, an HTML fragment for text.
        """
        held_out, loss_mask = self.tokens(HELD_OUT_TOKENS)[:rows], self.loss_mask(HELD_OUT_TOKENS)
        loss_mask = None if loss_mask is None else loss_mask[:rows]
        names, are_answers = {field.name for field in fields(DecodingConfig)}, loss_mask is not None
        decoding = DecodingConfig(
            **{"stop_at_end": are_answers} | {name: value for name, value in options.items() if name in names}
        )
        modality = self._with_settings({name: value for name, value in options.items() if name not in names})
        prompts = list(cut_prompts(modality, held_out, loss_mask))
        num_left = num_completed(prompts, held_out.shape[1], modality.model.context_length)
        originals = cut_originals(held_out, loss_mask, prompts, num_left)
        columns = {
            "completion": self.complete(prompts, decoding, num_left),
            "original": stack(originals, modality.end_tokens if are_answers else ()),
        }
        return self.modality.comparison_figure(prompts=prompts, columns=columns).content

    def _with_settings(self, changes: dict[str, Any]) -> Modality:
        return self.modality.with_settings(replace(self.modality.settings, **changes)) if changes else self.modality
