"""Hold a loaded run or base, to complete prompts and draw figures of the completions.

Shape letters: B batch, P prompt, S completion, N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from hypergen import registry
from hypergen.config import DecodingConfig, ExportConfig
from hypergen.data.loss_mask import cut_originals, cut_prompts, num_completed
from hypergen.decoding.completion_journal import BatchStore, no_store
from hypergen.decoding.end_tokens import stack
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.errors import InputError
from hypergen.evaluation.interpolation import interpolated, require_whole
from hypergen.evaluation.records import Records
from hypergen.keywords import DecodingAndSettingsKeywords, DecodingKeywords, ExportKeywords, Items, speaks_python
from hypergen.modality import Item, Modality
from hypergen.objects import is_table, rows_of
from hypergen.options import ResolvedExport, base_of, make_settings, only_options, read_record, split_options
from hypergen.report.columns import Columns
from hypergen.report.verdicts import Verdict
from hypergen.runtime.devices import pick_device
from hypergen.runtime.progress import track
from hypergen.storage.atomic import write_file
from hypergen.storage.file_names import HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.storage.run_record import lasting_name
from hypergen.storage.token_files import checked_ids, stored_loss_mask, stored_tokens


@dataclass(repr=False)
class Run:
    """A run folder (or base folder, or hub model) with its model in memory.

    It pickles as where it came from, and loads itself again: what else was done to its weights is not in a pickle.
    """

    folder: Path
    modality: Modality
    record: dict[str, Any]
    """Content of `hypergen.json`; empty for a model that hypergen did not make."""

    def __repr__(self) -> str:
        return f"<hypergen run {str(self.folder)!r}: {self._summary()}>"

    def _repr_html_(self) -> str:
        """Show name and table in a notebook."""
        table = self.records._repr_html_() if self.records else ""
        return f"<p><b>{escape(str(self.folder))}</b>: {escape(self._summary())}</p>\n{table}"

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[Any, ...]]:
        devices = (str(weight.device) for weight in self.modality.model.parameters() if not weight.is_meta)
        device = next(devices, "auto")
        source = str(self.folder) if registry.is_named(self.folder) else lasting_name(str(self.folder))
        settings, alpha = asdict(self.modality.settings), self.record.get("interpolated")
        return _load_again, (source, self.modality.name, settings, device, alpha)

    def _summary(self) -> str:
        """Say in a line what it is."""
        training, alpha = self.record.get("training"), self.record.get("interpolated")
        if training is None:
            return f"{self.modality.name}, a base"
        mixed = "" if alpha is None else f", interpolated with its base at {alpha}"
        return f"{self.modality.name}, training loss {training['loss']:.3f}, epochs {training['epochs']}{mixed}"

    @property
    def records(self) -> Records:
        """The before/after table, one record a row; empty for a base."""
        return Records(self.record.get("comparison", []), Columns.of(registry.adapter(self.modality.name).METRICS))

    def to_dataframe(self) -> Any:
        """Make a pandas DataFrame of `records`, flat."""
        return self.records.to_dataframe()

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

    @speaks_python(DecodingKeywords)
    def generate(
        self,
        prompts: Items = None,
        *,
        max_new_tokens: int | None = None,
        progress: bool = True,
        **decoding: Unpack[DecodingKeywords],
    ) -> list[Item]:
        """Continue prompts: texts give their continuations, pictures give whole pictures with a new lower part.

        Args:
            prompts: one item or several; None takes the prompts of the run's held-out sequences.
            max_new_tokens: None is 256, or the rest of the picture.
            progress: False shows none.
            decoding: fields of `DecodingConfig`, such as `strategy="top-p"` or `block_citations=5`.
        """
        config = only_options(DecodingConfig, None, dict(decoding), "generate")
        rows = self.prompt_rows(prompts)
        return self.modality.render(prompts=rows, completions=self.complete(rows, config, max_new_tokens))

    @speaks_python(DecodingKeywords)
    def generate_tokens(
        self,
        prompt_ids: Tensor,
        max_new_tokens: int | None = None,
        *,
        progress: bool = True,
        **decoding: Unpack[DecodingKeywords],
    ) -> Tensor:
        """Continue prompts given as ids: (B, P) without start token, P >= 0 -> (B, S) on the CPU.

        Args:
            prompt_ids: of one length.
            max_new_tokens: None is the modality's choice.
            progress: False shows none.
            decoding: fields of `DecodingConfig`.

        Raises:
            InputError: ids that are no whole numbers or that the model does not have.
        """
        config = only_options(DecodingConfig, None, dict(decoding), "generate_tokens")
        prompt_ids = checked_ids("prompt ids", prompt_ids, self.modality.model.num_tokens)
        rows = list(self.modality.add_start_tokens(prompt_ids))
        return self.complete(rows, config, max_new_tokens)

    @speaks_python()
    def prompt_rows(self, prompts: Items = None) -> list[Tensor]:
        """Encode prompts as ids (P,) each, start token included; None: those of the held-out sequences."""
        if prompts is None:
            return list(cut_prompts(self.modality, self.tokens(HELD_OUT_TOKENS), self.loss_mask(HELD_OUT_TOKENS)))
        if is_table(prompts):
            prompts = self._items_of_table(prompts)
        if self.modality.is_item(prompts) or not isinstance(prompts, Sequence):
            return [self.modality.encode_prompt(prompts)]
        rows = []
        with track("encode prompts", len(prompts), transient=True) as advance:
            for number, item in enumerate(prompts, 1):
                rows.append(self.modality.encode_prompt(item, number=number))
                advance()
        return rows

    def _items_of_table(self, table: object) -> Sequence[Item]:
        """Make items of a table's rows, as `data` does."""
        adapter, rows = registry.adapter(self.modality.name), rows_of("prompts", table)
        return adapter.read_rows(rows=rows, source="prompts", settings=self.modality.settings, skip_bad=0)

    @speaks_python()
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

    @speaks_python()
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

    @speaks_python(ExportKeywords)
    def export(self, config: ExportConfig | None = None, **options: Unpack[ExportKeywords]) -> Path:
        """Write the model and its codec into one file that another program reads, such as GGUF for llama.cpp.

        Args:
            config: ready-made options; else every field of `ExportConfig` is a keyword: `format`, `type`, `output`.
            options: those keywords.

        Returns:
            The file.

        Raises:
            InputError: there is no such format or type, it has no equal of this model, or the file is there already.
        """
        given = only_options(ExportConfig, config, dict(options), "export")
        resolved = ResolvedExport.of(given, self.modality.name, self.folder)
        write, title = registry.adapter(self.modality.name).EXPORT_WRITERS[resolved.format], resolved.file.stem
        write_file(resolved.file, lambda file: write(self.modality, file, type=resolved.type, title=title))
        return resolved.file

    @speaks_python(DecodingAndSettingsKeywords)
    def grid(self, rows: int = 8, *, progress: bool = True, **options: Unpack[DecodingAndSettingsKeywords]) -> Any:
        """Draw held-out sequences of the run, one below the other: prompt, completion, original.

        Args:
            rows: how many.
            progress: False shows none.
            options: settings of the modality (`prompt_fraction=0.25`) and fields of `DecodingConfig`.

        Returns:
            A PIL picture for images, an HTML fragment for text, which shows itself in a notebook.
        """
        held_out, loss_mask = self.tokens(HELD_OUT_TOKENS)[:rows], self.loss_mask(HELD_OUT_TOKENS)
        loss_mask = None if loss_mask is None else loss_mask[:rows]
        are_answers = loss_mask is not None
        decoding, others = split_options(DecodingConfig, None, {"stop_at_end": are_answers, **options})
        modality = self._with_settings(others)
        prompts = list(cut_prompts(modality, held_out, loss_mask))
        num_left = num_completed(prompts, held_out.shape[1], modality.model.context_length)
        originals = cut_originals(held_out, loss_mask, prompts, num_left)
        columns = {
            "completion": self.complete(prompts, decoding, num_left),
            "original": stack(originals, modality.end_tokens if are_answers else ()),
        }
        return self.modality.comparison_figure(prompts=prompts, columns=columns).content

    def _with_settings(self, changes: dict[str, Any]) -> Modality:
        if not changes:
            return self.modality
        settings = make_settings(self.modality.name, asdict(self.modality.settings) | changes, {}, DecodingConfig)
        return self.modality.with_settings(settings)


def load_run(source: str, name: str, settings: Any, *, device: str, allow_pickle_weights: bool = False) -> Run:
    """Load a run or base whose modality and settings are known.

    Args:
        source: a folder, file, name or hub id.
        name: of the modality.
        settings: its own.
        device: auto, cpu, cuda, cuda:N or mps.
        allow_pickle_weights: read pickled weights (.bin) where no others are.
    """
    target = pick_device(device)
    loaded = registry.adapter(name).load(source=source, settings=settings, allow_pickle_weights=allow_pickle_weights)
    loaded.model.to(target)
    loaded.model.eval()
    return Run(Path(source), loaded, read_record(source))


@speaks_python()
def _load_again(source: str, name: str, settings: dict[str, Any], device: str, alpha: float | None) -> Run:
    """Load what a pickle names."""
    run = load_run(source, name, make_settings(name, settings, {}), device=device)
    return run if alpha is None else run.interpolate(alpha)
