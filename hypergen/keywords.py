"""Type the keywords of Python's verbs, so that an editor completes them and a type checker finds a typo.

Each class lists the fields of one config, or of the `Settings` of the modalities that come with hypergen; a test
compares them, because a type checker does not follow dataclasses here. What may be an object in Python, a list of texts
or a model, is typed as such. Where `modality` names another one, its own settings are keywords, too, at run time.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial, wraps
from itertools import starmap
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

from hypergen.config import DecodingPrecision, Precision, StrategyName
from hypergen.errors import in_keywords
from hypergen.runtime.progress import hidden

Path = str | os.PathLike[str]
Items = object  # a source's name; or a list, a datasets.Dataset, a pandas DataFrame, an (N, T) tensor of ids
Model = object  # a name, a folder, a hub id; or a Run, a model of transformers

OnEpoch = Callable[[int, dict[str, float]], None]  # the epoch's number, from 1, and its metrics by name

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class SettingsKeywords(TypedDict, total=False):
    """Name the settings of the modalities that come with hypergen."""

    # of text
    sequence_length: int | None
    prompt_length: int
    text_field: str
    hub_rows: int
    pack: bool
    pad: bool
    chat: bool
    offload: bool
    resident_blocks: int
    # of pictures
    codec: Literal["vq", "colors"]
    codec_steps: int
    image_size: int | None
    prompt_fraction: float
    mirror: bool


class PretrainKeywords(SettingsKeywords, total=False):
    """Name the options of `pretrain`."""

    modality: str
    data: Items
    output: Path
    held_out: Items
    skip_bad: int
    codec_from: Path | None
    vocabulary_size: int | None
    width: int
    num_layers: int
    num_heads: int
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    device: str
    precision: Precision
    checkpoint_every: int
    resume: bool


class FitKeywords(SettingsKeywords, total=False):
    """Name the options of `fit`."""

    modality: str | None
    model: Model
    data: Items
    prompts: Items
    skip_bad: int
    allow_pickle_weights: bool
    output: Path | None
    num_samples: int | None
    epochs: int | None
    learning_rate: float | None
    batch_size: int | None
    last_layers: int | None
    target_loss: float
    target_accuracy: float | None
    max_overlap: float | None
    measure_every: int
    held_out_samples: int | None
    max_new_tokens: int | None
    seed: int
    device: str
    precision: Precision
    micro_batch_size: int | None
    recompute: bool
    checkpoint_every: int | None
    resume: bool


class DecodingKeywords(TypedDict, total=False):
    """Name the options of decoding."""

    strategy: StrategyName
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    fsd_alpha: float | None
    num_beams: int | None
    repetition_penalty: float
    block_citations: int
    stop_at_end: bool
    precision: DecodingPrecision
    native: bool
    seed: int


class DecodingAndSettingsKeywords(DecodingKeywords, SettingsKeywords, total=False):
    """Name the options of decoding, and the settings."""


class EvaluateKeywords(TypedDict, total=False):
    """Name the options of `evaluate`."""

    baseline: Path | None
    data: Items
    skip_bad: int
    allow_pickle_weights: bool
    completions: Path | None
    interpolations: tuple[float, ...]
    count: int | None
    max_new_tokens: int | None
    seed: int
    device: str


class ExportKeywords(TypedDict, total=False):
    """Name the options of `export`."""

    format: str | None
    type: str | None
    output: Path | None


def speaks_python(
    keywords: type | None = None,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function that Python's users call.

    Errors that leave it name keywords in place of flags, `progress=False` hides every bar, and its signature lists all
    keywords one by one, for `help` and for completion in a notebook.

    Args:
        keywords: the class of its `**options`; None where it has none.
    """
    return partial(_speaking, keywords)


def _speaking(keywords: type | None, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with in_keywords(), hidden(kwargs.get("progress") is False):
            return function(*args, **kwargs)

    vars(call)["__signature__"] = _with_keywords(inspect.signature(function), keywords)
    return call


def _with_keywords(signature: inspect.Signature, keywords: type | None) -> inspect.Signature:
    """Replace `**options` by its keywords, each left out unless it is given."""
    names: dict[str, Any] = {} if keywords is None else keywords.__annotations__
    kept = [one for one in signature.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
    return signature.replace(parameters=[*kept, *starmap(_keyword, names.items())])


def _keyword(name: str, kind: Any) -> inspect.Parameter:
    hint = getattr(kind, "__forward_arg__", kind)  # as it is written
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=hint)
