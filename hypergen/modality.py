"""Describe what an adapter gives and what the core asks of its model: the contract, as types.

The core (training, decoding, evaluation) sees a modality only through these protocols and never learns what a token
means, so that a third modality is a package that `register_modality` names; `tests/toy` is one. They are split by
client: training asks for a `TrainableModel`, the activation cache for a `TruncatableModel`, decoding for a `Decoder`,
evaluation for a `Predictor`; a modality's model is all four, a `TokenModel`.
Imports no library at run time, so that whatever needs only a `Metric` stays light.

Shape letters: N items, B batch, T tokens, P prompt, S completion, M originals, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hypergen.config import FitConfig, PretrainConfig

Item = Any  # a raw example: str, PIL image, ...; only its adapter looks inside
KvCache = Any  # keys and values of a prefix, or the like; only the model that made it looks inside
TrainingState = Any  # the state that a training continues from; only the training that made it looks inside


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Say how a metric is shown; it is defined where it is computed."""

    head: str
    """Title of its column."""
    meaning: str
    is_count: bool = False
    decimals: int = 3
    """Decimals of the mean and of its interval: ends cut to fewer would overlap in print where they do not."""
    is_diversity: bool = False
    """Never shown without the overlap with the training set beside it."""
    is_detail: bool = False
    """Shown on the page, not on a terminal."""
    is_verdict: bool = False
    """A verdict may be about it, where low is good; an adapter's own metric goes before the core's."""
    is_summary: bool = False
    """Shown in the short table that `fit` ends with; the metric of the verdict always is."""
    better: Literal["lower", "higher"] | None = None
    """Which way is better; None where neither is."""
    plain: str = ""
    """What it is a share of, in a word that needs no glossary ("looping"), for sentences; empty: its head does."""


Metrics = Mapping[str, Metric]  # by name in a record, in the order of the columns


class Encoded(NamedTuple):
    """Hold sequences, and which of their tokens the loss counts where that is not all (`data.loss_mask`)."""

    tokens: Tensor
    """(N, T) ids, int64."""
    loss_mask: Tensor | None = None
    """(N, T) truth values: the tokens that are to be predicted. Padding lies behind a sequence's last one."""


# What the core asks of a model.


class Module(Protocol):
    """The members of `nn.Module` that the core uses."""

    training: bool

    def __call__(self, tokens: Tensor, /) -> Tensor: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: torch.device, /) -> Any: ...
    def float(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...


class Predictor(Module, Protocol):
    """Predicts every next token of a sequence: what evaluation asks of a model.

    Every method takes and returns tensors on the module's device.
    """

    num_tokens: int  # V: ids run from 0 to V - 1
    context_length: int  # the most tokens that one sequence may have

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute the last hidden states, which `head` turns into logits: (B, T) ids -> (B, T, D)."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Compute logits: (..., D) -> (..., V). Called on slices, so that (B, T, V) need never exist."""
        ...


class TrainableModel(Predictor, Protocol):
    """Has its transformer blocks in order, so that the last of them can be trained alone."""

    @property
    def blocks(self) -> Sequence[nn.Module] | nn.ModuleList:
        """The transformer's blocks, in order."""
        ...

    @property
    def final_modules(self) -> Sequence[nn.Module]:
        """Modules after the last block: final norm and, when not tied to the input, the head."""
        ...


class TruncatableModel(TrainableModel, Protocol):
    """Can stop before a block and go on from there, so that frozen blocks run once for all epochs."""

    def hidden_before(self, tokens: Tensor, num_last: int) -> Tensor:
        """Compute the input of the last `num_last` blocks: (B, T) ids -> (B, T, D)."""
        ...

    def forward_from(self, hidden: Tensor, num_last: int, until: int = 0) -> Tensor:
        """Continue from `hidden_before`: (B, T, D) -> (B, T, D), equal to `hidden` of the same ids.

        Args:
            hidden: the input of the last `num_last` blocks.
            num_last: how many blocks that are.
            until: above 0, stop before the last `until` blocks; the result is then `hidden_before(tokens, until)`.
        """
        ...

    def cache_stages(self, num_last: int) -> Sequence[int]:
        """List the cuts at which all sequences wait for each other on the way to the last `num_last` blocks.

        Each entry is a number of blocks not yet run, the last one `num_last`. A model in memory has this one stage; one
        that reads its blocks from files has one a block, so that each is read once for all sequences.
        """
        ...


class Decoder(Module, Protocol):
    """Decodes token by token with a key-value cache: what the decoding loop asks of a model."""

    num_tokens: int
    context_length: int

    @property
    def supports_left_padding(self) -> bool:
        """Whether `prefill` takes prompts of different lengths, padded on the left."""
        ...

    def prefill(
        self, prompt: Tensor, max_new_tokens: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, KvCache]:
        """Compute the prompt: (B, P) ids, P >= 1 -> logits (B, V) of the next token, and a cache of the prefix.

        Args:
            prompt: ids, start token included.
            max_new_tokens: how many tokens will follow; the cache has the capacity for them.
            num_padding: (B,), where `supports_left_padding`: how many ids at the beginning of each row are padding.
            native: let the steps run in native code where that can be had; they give the same ids.
        """
        ...

    def decode_step(self, token: Tensor, kv_cache: KvCache) -> tuple[Tensor, KvCache]:
        """Decode one token: (B,) ids -> logits (B, V) of the token after it, and the longer cache.

        The prefix is never recomputed; the given cache is used up.
        """
        ...

    def select_rows(self, kv_cache: KvCache, rows: Tensor) -> KvCache:
        """Keep these rows (indices (B',), repeats allowed) of a cache, and leave the given one as it was."""
        ...


class TokenModel(TruncatableModel, Decoder, Protocol):
    """A modality's model: an `nn.Module` over the ids of one vocabulary, for all clients."""


# What the core asks of an adapter.


class Figure(Protocol):
    """A figure of completions side by side."""

    @property
    def content(self) -> Any:
        """The value that `Run.grid` returns: a PIL picture, an HTML fragment, ..."""
        ...

    def html(self) -> str:
        """Render a fragment of a page: escaped, and complete in itself."""
        ...

    def save(self, folder: Path) -> list[Path]:
        """Write the files that it has besides a page (a `.png`), and return them; none where it is HTML alone."""
        ...


class ReferenceMetrics(Protocol):
    """Computes the costlier metrics, which need decoded items or an optional library; one without it is left out."""

    def compute(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute: prompts (B, P), completions (B, S) -> name -> (B,) values, one an original (M,), or () for all."""
        ...

    def describe(self, num_completions: int) -> dict[str, str]:
        """Say by name how each is computed from so many completions (signature, features, sizes), or why it is not."""
        ...


class Modality(Protocol):
    """A codec (items <-> tokens) and its model. Implementations are final and hold every setting they need."""

    name: str
    end_tokens: tuple[int, ...]  # ids after each of which a completion is over; empty where its length is fixed

    @property
    def model(self) -> TokenModel:
        """The model over the codec's ids."""
        ...

    @property
    def settings(self) -> Any:
        """The adapter's own `Settings`."""
        ...

    @property
    def sequence_length(self) -> int:
        """T of every encoded sequence."""
        ...

    def is_item(self, value: object) -> bool:
        """Tell one item from a collection of several."""
        ...

    def encode(self, items: Sequence[Item]) -> Tensor:
        """Encode all items, for pretraining: -> tokens (N, T) int64, start token included."""
        ...

    def encode_training(self, items: Sequence[Item], count: int, seed: int = 0) -> Encoded:
        """Encode exactly `count` sequences to hyperfit on, start token included.

        Args:
            items: read when they are needed.
            count: N.
            seed: of the choice.

        Raises:
            InputError: there are fewer than `count`; it names both numbers.
        """
        ...

    def encode_held_out(self, items: Sequence[Item], count: int, seed: int = 0) -> Encoded:
        """Encode held-out items: -> at most `count` sequences (N, T), from as many items as possible.

        With a loss mask, a sequence's prompt is what lies before the first token that counts.

        Raises:
            InputError: no item gives one.
        """
        ...

    def add_start_tokens(self, prompt: Tensor) -> Tensor:
        """Complete bare prompts: (B, P) ids without start token, P >= 0 -> (B, P') ids for `prefill`, P' >= 1."""
        ...

    def encode_prompt(self, item: Item, number: int | None = None) -> Tensor:
        """Encode one item as a prompt (P,), start token included: all of a text, the top of a picture.

        Args:
            item: the item.
            number: its place among several, for messages.

        Raises:
            InputError: it is of another type, or fills the whole context.
        """
        ...

    def prompts(self, tokens: Tensor) -> Tensor:
        """Cut the prompts off encoded tokens: (N, T) -> (N, P), start token included."""
        ...

    def max_new_tokens(self, prompt_length: int) -> int:
        """Choose how many tokens continue a prompt of P tokens (start token included) unless the user says."""
        ...

    def num_compared_tokens(self, num_left: int) -> int:
        """Choose how many of the `num_left` tokens after a held-out prompt the completions of a comparison have."""
        ...

    def decode(self, tokens: Tensor) -> list[Item]:
        """Decode tokens (N, T), start and end tokens allowed, into items."""
        ...

    def render(self, prompts: Sequence[Tensor], completions: Tensor) -> list[Item]:
        """Decode for a reader: prompts (P,) each and completions (B, S) -> continuations of texts, whole pictures."""
        ...

    def as_text(self, item: Item) -> str | None:
        """Render an item as text for a terminal or a JSON record; None where it has none."""
        ...

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Write one file an item into `folder`."""
        ...

    def comparison_figure(
        self,
        prompts: Sequence[Tensor],
        columns: Mapping[str, Tensor],
        recited: Mapping[str, Collection[int]] | None = None,
    ) -> Figure:
        """Draw N prompts (P,) and columns of completions (N, S) by title, one row an example.

        Args:
            prompts: start token included.
            columns: completions by title.
            recited: by title, the rows (from 0) that recite the training set and stand out; None: nobody looked.
        """
        ...

    def metrics(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute the cheap metrics that need the meaning of a token: (B, P), (B, S) -> name -> (B,), or () for all.

        A completion that has ended is filled up with end tokens, which do not count.
        """
        ...

    def reference_metrics(self, training: Tensor, originals: Tensor) -> ReferenceMetrics:
        """Prepare the metrics that compare with decoded training sequences (N, T) and held-out originals (M, T).

        Made from the base; hyperfitting the model afterwards does not change them.
        """
        ...

    def with_settings(self, settings: Any) -> Modality:
        """Combine the same codec and model with other settings."""
        ...

    def with_model(self, model: TokenModel) -> Modality:
        """Combine the same codec and settings with another model of the same class and shapes."""
        ...

    def save(self, folder: Path) -> None:
        """Write model (`save_pretrained` layout) and codec into `folder`, safetensors and JSON only."""
        ...


class CodecCheckpoints(Protocol):
    """Where an adapter's own training of a codec is saved, and continued from (`training.checkpoints.Checkpoints`)."""

    def part(self, name: str, facts: dict[str, Any]) -> CodecCheckpoints:
        """Select the checkpoints of one training, with the facts that must be equal when it continues."""
        ...

    def newest(self) -> TrainingState | None:
        """Read the newest valid checkpoint; None where there is nothing to continue."""
        ...

    def save(self, state: TrainingState) -> None:
        """Publish a checkpoint."""
        ...

    def stop_signal(self) -> int | None:
        """Return the number of a signal that has arrived."""
        ...

    def whole_steps(self) -> AbstractContextManager[None]:
        """Only note signals inside, so that a step is never cut in two."""
        ...


class ExportWriter(Protocol):
    """Writes a file of an `ExportFormat`."""

    def __call__(self, modality: Modality, file: Path, *, type: str, title: str) -> None:
        """Write the model and its codec into one file.

        Args:
            modality: both; one of this adapter.
            file: to be made.
            type: one of the format's.
            title: name of the model, for people.

        Raises:
            InputError: the format has no equal of the model or of its codec, or a library is missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """Describe a file format of another program that a model is exported to."""

    suffix: str
    """How its files end, with the dot."""
    types: tuple[str, ...]
    """As what weights may be stored; the first is the default."""


class Adapter(Protocol):
    """The module `adapter` of a modality's package. Functions take keyword arguments only.

    The package has, beside it, a module `config`, importable without torch: `Settings` (its frozen dataclass of
    options), `PAPER_RECIPE` (values of those options for a model without a card), `SOURCES` (what `--data` may name, in
    words), `BUILT_IN_SOURCES` (those that are no file), `NAMED_BASES` (names that `--model` takes, each with a `card`
    here), `MODEL_SUFFIXES` (how files that are a model end, with the dot), `MODEL_FILES` (each makes a folder without
    `config.json` a model of this modality), `EXPORT_FORMATS` (formats of other programs by name, `ExportFormat`; the
    first is the default) and `recognizes(config)` (whether the content of a `config.json` is of a model of this
    modality).
    """

    @property
    def METRICS(self) -> Metrics:
        """How its metrics are shown, in the order of the columns."""
        ...

    @property
    def OPTIONAL_DEPENDENCIES(self) -> Mapping[str, str]:
        """Import name of each library that only some of its features need -> what to install."""
        ...

    @property
    def LIBRARIES(self) -> Sequence[str]:
        """Distributions whose versions a run records."""
        ...

    @property
    def DEFAULT_PROMPTS(self) -> str | None:
        """The built-in source of held-out items for a base hyperfitted on its own samples; None: sample those, too."""
        ...

    @property
    def FIGURE_SUFFIX(self) -> str:
        """How the file of its figure ends: .html where that is a page, else the suffix of what `Figure.save` writes."""
        ...

    @property
    def PIPELINE_TAG(self) -> str | None:
        """The task under which the hub lists its models (`pipeline_tag` of a model card); None: none fits."""
        ...

    @property
    def LIBRARY_NAME(self) -> str:
        """The library that loads a saved run (`library_name` of a model card)."""
        ...

    @property
    def LOADING(self) -> str:
        """Python code that loads a saved run from the working folder and continues a prompt, for its model card."""
        ...

    @property
    def EXPORT_WRITERS(self) -> Mapping[str, ExportWriter]:
        """What writes each of the `EXPORT_FORMATS` of its `config`."""
        ...

    def read(self, *, source: str, settings: Any, skip_bad: int) -> Sequence[Item]:
        """Open a source, and check what can be checked before any model is loaded.

        Args:
            source: a file, a folder, a built-in name or `hub:ID`.
            settings: the adapter's own.
            skip_bad: bad items that are skipped and counted, at most.

        Raises:
            InputError: there is no such source, it holds no item, or more bad ones.
        """
        ...

    def read_rows(self, *, rows: Sequence[Any], source: str, settings: Any, skip_bad: int) -> Sequence[Item]:
        """Make items of Python objects: of items themselves, and of a table's rows, which are mappings.

        Args:
            rows: at least one.
            source: what they are, in words, for messages.
            settings: the adapter's own.
            skip_bad: bad rows that are skipped and counted, at most.

        Raises:
            InputError: a row is neither, or more of them are bad.
        """
        ...

    def cut(self, *, item: Item, count: int, settings: Any) -> tuple[Item, Item] | None:
        """Cut one item in two, for a source that has only one: what is trained on, and its end, which is held out.

        Args:
            item: the only one.
            count: sequences that are to be held out, at most.
            settings: the adapter's own.

        Returns:
            None where an item is a whole, or too short.
        """
        ...

    def prepare_fit(self, *, settings: Any, config: FitConfig) -> Any:
        """Adjust the settings to a fit, and refuse options that do not go together, before anything is loaded."""
        ...

    def build(
        self, *, items: Sequence[Item], settings: Any, config: PretrainConfig, checkpoints: CodecCheckpoints
    ) -> Modality:
        """Make a fresh base: a codec (trained on the items, or `config.codec_from`) and an untrained model.

        Args:
            items: the training set of a codec.
            settings: the adapter's own.
            config: sizes, seed and device.
            checkpoints: where the training of a codec is saved, and continued from.

        Raises:
            InputError: sizes that do not fit, or items or folders that cannot be read.
        """
        ...

    def card(self, *, source: str) -> Mapping[str, Any]:
        """Return what is known of a base in `NAMED_BASES`: JSON values; empty for any other source.

        `fit` holds recipes for the options of a fit by its `--data`: `self`, a built-in name, `data` for any other.

        Args:
            source: the name.
        """
        ...

    def wrap(self, *, model: object, tokenizer: object, settings: Any) -> Modality:
        """Wrap a model that the caller has loaded; it is trained in place.

        Args:
            model: as the adapter's library has it.
            tokenizer: what encodes and decodes for it; None: not given.
            settings: the adapter's own; an open field takes the value that suits the model.

        Raises:
            InputError: they are of another kind, or do not fit each other or the settings.
        """
        ...

    def load(self, *, source: str, settings: Any, allow_pickle_weights: bool) -> Modality:
        """Load a base or run.

        Args:
            source: a folder, a file of `MODEL_SUFFIXES`, a name of `NAMED_BASES`, or a hub id.
            settings: the adapter's own; an open field takes the value that suits the model.
            allow_pickle_weights: read pickled weights (.bin) where no others are.

        Raises:
            InputError: it is not there, incomplete, of another architecture, or does not fit the settings.
        """
        ...
