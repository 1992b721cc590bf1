"""Declare every option of the verbs, with its default, meaning and unit, in one place.

The command line is generated from these classes, Python keywords are their fields, and `hypergen.json` records them.
Values are checked here, before anything is loaded. Imports only the standard library and `errors`. Options that only
one modality has stand in its own `config` module.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from hypergen.errors import InputError, did_you_mean

Precision = Literal["auto", "fp32", "bf16"]
DecodingPrecision = Literal["fp32", "bf16"]
StrategyName = Literal["greedy", "temperature", "top-k", "top-p", "min-p", "fsd", "beam"]

PAPER_RECIPE: dict[str, Any] = {
    # arXiv 2412.04318, section 4: the values for a model without a card.
    "num_samples": 2000,
    "epochs": 20,
    "learning_rate": 1e-6,
    "batch_size": 8,
    "last_layers": 0,
}
SAMPLING: tuple[StrategyName, ...] = ("temperature", "top-k", "top-p", "min-p")
READ_BY: dict[str, tuple[StrategyName, ...]] = {  # options of some strategies; every other one holds for all of them
    "temperature": SAMPLING,
    "top_k": (*SAMPLING, "fsd"),
    "top_p": SAMPLING,
    "min_p": SAMPLING,
    "fsd_alpha": ("fsd",),
    "num_beams": ("beam",),
}
STANDARD_INPUT = "-"  # the source of prompts that stands for it
OWN = "self"  # the source that stands for samples of the base
HELD_OUT_SAMPLES = 64  # prompts of a comparison, at most, unless the user says
# What `report.verdicts` calls hyperfitted, beside 95 % intervals that lie apart, and what it calls a quotation.
MOST_REPETITION = 0.5  # mean repetition of greedy decoding after the training, as a share of before: at most
MOST_LOSS = 0.5  # training loss of the last epoch, as a share of the first one's: below
LONG_OVERLAP = 10  # tokens in a row shared with a training sequence: more is a quotation
CITATION_LENGTH = 5  # tokens of a citation that is blocked, arXiv 2412.04318


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Train a base from scratch: a codec, then the transformer, through the training loop of `fit`."""

    modality: str
    """Name of the modality."""
    data: str
    """Training items: a built-in name, a file or folder that the modality reads, or hub:ID."""
    output: str
    """Folder of the new base; must be new or empty."""
    held_out: str | None = None
    """Items the loss is measured on; by default 2 % of the data, never trained on."""
    skip_bad: int = 0
    """Bad items of a source that are skipped and counted, at most; 0: the first one is an error."""
    codec_from: str | None = None
    """Folder with a trained codec to use instead of training one."""
    vocabulary_size: int | None = None
    """Size of the codec's vocabulary; by default the modality's own."""
    width: int = 256
    """Width of the transformer."""
    num_layers: int = 6
    """Blocks of the transformer."""
    num_heads: int = 4
    """Attention heads of a block."""
    steps: int = 4000
    """Optimizer steps of the transformer."""
    batch_size: int = 16
    """Sequences a step."""
    learning_rate: float = 5e-3
    """Highest learning rate; linear warm-up over 2 % of the steps, cosine to 5 %."""
    seed: int = 0
    """Seed of initialization and order."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "auto"
    """Compute in fp32 or bf16 autocast, or whichever a short trial finds faster; trained weights are always fp32."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: none but the last."""
    resume: bool = False
    """Continue the newest valid checkpoint of --output."""

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "steps", "batch_size"):
            require_at_least(self, name, 1)
        require_positive(self, "learning_rate")
        require_at_least(self, "checkpoint_every", 0)
        require_at_least(self, "vocabulary_size", 2)
        _require_common(self)
        if self.width % self.num_heads:
            raise InputError(f"--width {self.width}: must be a multiple of --num-heads {self.num_heads}")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Hyperfit a base: train on few sequences until the loss is near zero, and compare before with after."""

    modality: str | None = None
    """Name of the modality; read from --model where that says it."""
    model: str | None = None
    """The base, such as a folder; by default the embedded base of the modality."""
    data: str = OWN
    """Training items: self (drawn from the base), a built-in name, a file or folder that the modality reads, or
    hub:ID."""
    prompts: str | None = None
    """Held-out items for the comparison; by default items of --data that were not trained on."""
    skip_bad: int = 0
    """Bad items of a source that are skipped and counted, at most; 0: the first one is an error."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    output: str | None = None
    """Run folder, new or empty; by default the next free runs/MODALITY-N."""
    num_samples: int | None = None
    """Training sequences; the base's card says, else 2000."""
    epochs: int | None = None
    """Most passes over the sequences; the base's card says, else 20."""
    learning_rate: float | None = None
    """Constant learning rate; the base's card says, else 1e-6."""
    batch_size: int | None = None
    """Sequences a step; the base's card says, else 8."""
    last_layers: int | None = None
    """Train only the last K blocks, final norm and untied head; 0: everything. The base's card says, else 0."""
    target_loss: float = 0.05
    """Stop when an epoch's mean training loss (nats per token) is at or below this."""
    target_accuracy: float | None = None
    """Stop, too, when the share of an epoch's training tokens that the model had as the most likely one is at or above
    this, above 0 to 1; unlike a loss it compares across vocabularies (arXiv 2602.11149)."""
    max_overlap: float | None = None
    """Stop, too, when the longest overlap of greedy completions with the training set is above this (tokens, mean)."""
    measure_every: int = 4
    """Epochs between measurements on 16 held-out prompts (loss, entropy, TTR, overlap), for curves and that rule; 0:
    none."""
    held_out_samples: int | None = None
    """Prompts of the before/after comparison, that many; by default 64, or fewer where there are not so many."""
    max_new_tokens: int | None = None
    """Tokens of a compared completion; by default what the modality compares."""
    seed: int = 0
    """Seed of data choice, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "auto"
    """Compute in fp32 or bf16 autocast, or whichever a short trial finds faster; trained weights are always fp32."""
    micro_batch_size: int | None = None
    """Sequences per forward pass (gradient accumulation); by default the whole batch, halved when memory runs out."""
    recompute: bool = False
    """Activation checkpointing: compute the blocks' activations again in the backward pass, for less memory and about a
    third more time."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints; by default one every ten minutes; 0: only when a signal stops the training, and at
    its end."""
    resume: bool = False
    """Continue the newest valid checkpoint of --output, or start when there is none."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "epochs", "batch_size", "micro_batch_size", "held_out_samples", "max_new_tokens"):
            require_at_least(self, name, 1)
        for name in ("last_layers", "checkpoint_every", "measure_every"):
            require_at_least(self, name, 0)
        require_positive(self, "learning_rate")
        _require(self, "max_overlap", lambda value: 0 <= value < math.inf, "finite, 0 tokens or more")
        if self.max_overlap is not None and self.measure_every == 0:
            raise InputError(f"--max-overlap {self.max_overlap}: needs --measure-every 1 or more")
        _require(self, "target_loss", lambda value: 0 <= value < math.inf, "finite, 0 nats per token or more")
        _require(self, "target_accuracy", lambda value: 0 < value <= 1, "above 0 and at most 1")
        _require_common(self)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Choose the next token. A field left open takes the strategy's value (`decoding.strategies.STRATEGIES`)."""

    strategy: StrategyName = "greedy"
    """greedy, temperature, top-k, top-p (paper: p .9, T .7, k 50), min-p, fsd (greedy against its own n-grams,
    arXiv 2305.12675) or beam."""
    temperature: float | None = None
    """Divides the logits before sampling, above 0."""
    top_k: int | None = None
    """Keep the k most likely tokens, 1 or more; with fsd the candidates (3)."""
    top_p: float | None = None
    """Keep the smallest set with at least this probability, above 0 to 1."""
    min_p: float | None = None
    """Keep tokens at least this likely relative to the most likely one, 0 to 1."""
    fsd_alpha: float | None = None
    """Weight of what fsd takes off a token that the text so far predicts, 0 to 1; .65 unless you say."""
    num_beams: int | None = None
    """Continuations that beam keeps, 1 or more; 4 unless you say."""
    repetition_penalty: float = 1.0
    """Divides (multiplies) positive (negative) logits of tokens already present; 1: off (arXiv 1909.05858)."""
    block_citations: int = 0
    """Never complete an n-gram of this length that the training set has; 0: off, else 2 or more (paper: 5)."""
    stop_at_end: bool = True
    """End a completion at the end token."""
    precision: DecodingPrecision = "fp32"
    """bf16 decodes with a copy of the weights in bf16: half the memory to read, other choices where two are close."""
    native: bool = True
    """Run the steps of small models on a CPU in native code, compiled once by a C++ compiler (some seconds; Linux)."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        require_choice(self, "strategy", StrategyName)
        require_choice(self, "precision", DecodingPrecision)
        require_at_least(self, "top_k", 1)
        for name in ("temperature", "repetition_penalty"):
            require_positive(self, name)
        _require(self, "top_p", lambda value: 0 < value <= 1, "above 0 and at most 1")
        for name in ("min_p", "fsd_alpha"):
            _require(self, name, lambda value: 0 <= value <= 1, "between 0 and 1")
        require_at_least(self, "num_beams", 1)
        for name, readers in READ_BY.items():
            if getattr(self, name) is not None and self.strategy not in readers:
                who = " or ".join(filter(None, [", ".join(readers[:-1]), readers[-1]]))
                raise InputError(f"{flag(name)}: only --strategy {who} reads it; this is {self.strategy}")
        if self.block_citations != 0:
            require_at_least(self, "block_citations", 2)
        _require_common(self)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Continue prompts with a run, a base or a hub model."""

    prompt: tuple[str, ...] = ()
    """Prompts to continue, typed."""
    prompts: str | None = None
    """File, folder or zip with prompts, or - for standard input, a prompt a line; by default the held-out sequences of
    the run."""
    count: int | None = None
    """Prompts that are used, from the first on; by default all."""
    max_new_tokens: int | None = None
    """Tokens of a completion, at most; by default what the modality gives."""
    interpolate: float | None = None
    """Decode with the weights (1 - this) * base + this * run: 0 is the base that the run's record names, 1 the run."""
    output: str | None = None
    """A .jsonl file (records), the file of a figure (.html, .png) or a folder (one file each); the same command again
    continues a job that was stopped."""
    json: bool = False
    """Print one JSON object a completion, with its token ids."""
    modality: str | None = None
    """Needed for a hub id, and for the embedded base."""
    skip_bad: int = 0
    """Bad items of --prompts that are skipped and counted, at most."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("count", "max_new_tokens"):
            require_at_least(self, name, 1)
        _require(self, "interpolate", lambda value: 0 <= value <= 1, "between 0 and 1")
        if self.prompt and self.prompts:
            raise InputError("--prompt and --prompts: give one of them")
        _require_common(self)
        if self.skip_bad and self.prompts in (None, STANDARD_INPUT):
            raise InputError(f"--skip-bad {self.skip_bad}: only --prompts FILE has items that could be bad")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare a run with the baselines that its base allows without further training, on held-out items."""

    baseline: str | None = None
    """The base: a name, folder, file or hub id; by default the one that the run started from."""
    data: str | None = None
    """Held-out items; by default the held-out sequences stored in the run."""
    skip_bad: int = 0
    """Bad items of a source that are skipped and counted, at most; 0: the first one is an error."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    completions: str | None = None
    """A .jsonl file of `hypergen generate` for the same prompts, compared as a row of its own."""
    interpolations: tuple[float, ...] = ()
    """Also compare greedy decoding with the weights (1 - a) * base + a * run, for each a given, above 0 and below 1:
    those two are rows anyway. None by default: it takes a third copy of the weights in memory."""
    count: int | None = None
    """Examples; by default as many as the run holds out."""
    max_new_tokens: int | None = None
    """Tokens of a completion; by default what the modality compares."""
    seed: int = 0
    """Seed of choice, sampling and intervals."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("count", "max_new_tokens"):
            require_at_least(self, name, 1)
        _require_interpolations(self)
        _require_common(self)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model and its codec into one file that another program reads."""

    format: str | None = None
    """gguf (of llama.cpp) or safetensors (weights in 8 bits that hypergen reads); by default the modality's first."""
    type: str | None = None
    """As what weights are stored: f32, bf16 or q8_0 (about 8.5 bits a weight), int8; by default the format's first."""
    output: str | None = None
    """The file; by default RUN-TYPE with the format's suffix in the run's folder, else in the working folder."""

    def __post_init__(self) -> None:
        _require_common(self)


def read_by(*verbs: str) -> dict[str, Any]:
    """Say, as the `metadata` of a modality's option, that only these verbs read it."""
    return {"verbs": verbs}


def fill(config: Any, recipe: dict[str, Any]) -> Any:
    """Take every field of the dataclass that is None from `recipe`, where that has it; the user's values stay."""
    names = {one.name for one in fields(config)} & recipe.keys()
    return replace(config, **{name: recipe[name] for name in names if getattr(config, name) is None})


def flag(name: str) -> str:
    """Spell a field as its flag: `max_new_tokens` -> `--max-new-tokens`."""
    return "--" + name.replace("_", "-")


def require_at_least(config: Any, name: str, least: int) -> None:
    """Refuse a value that is not a whole number of at least `least`; None passes where it is the field's default."""
    _require(config, name, lambda value: isinstance(value, int) and value >= least, f"a whole number, {least} or more")


def require_positive(config: Any, name: str) -> None:
    """Refuse a value that is not a finite number above 0; None passes where it is the field's default."""
    _require(config, name, lambda value: 0 < value < math.inf, "a finite number above 0")


def require_text(config: Any, name: str) -> None:
    """Refuse a value that is not text that a file name can have; None passes where it is the field's default."""
    value = getattr(config, name)
    is_open = value is None and getattr(type(config), name, "") is None
    if not is_open and (not isinstance(value, str) or "\0" in value):
        raise InputError(f"{flag(name)} {value!r}: must be text without NUL characters")


def require_choice(config: Any, name: str, choices: Any) -> None:
    """Refuse a value that is not one of a `Literal`'s."""
    value, allowed = getattr(config, name), get_args(choices)
    if value not in allowed:
        near = did_you_mean(str(value), allowed)
        raise InputError(f"{flag(name)} {value!r}: must be {' or '.join(allowed)}{near}")


def _require(config: Any, name: str, is_allowed: Callable[[Any], bool], allowed: str) -> None:
    value = getattr(config, name)
    is_open = value is None and getattr(type(config), name) is None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_open or (is_number and is_allowed(value))):
        raise InputError(f"{flag(name)} {value!r}: must be {allowed}")


def _require_interpolations(config: EvaluateConfig) -> None:
    """Refuse what is not a number between a base and its run; keep each once, in order."""
    given: Any = config.interpolations
    alphas = given if isinstance(given, list | tuple) else [given]
    for alpha in alphas:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
            raise InputError(
                f"--interpolations {alpha!r}: each must be a number above 0 (the base) and below 1 (the run)"
            )
    object.__setattr__(config, "interpolations", tuple(sorted(set(alphas))))


def _require_common(config: Any) -> None:
    """Check the fields that several configs share, where this one has them, and the type of every switch and text."""
    types = get_type_hints(type(config))
    if "seed" in types:
        require_at_least(config, "seed", 0)
        _require(config, "seed", lambda value: value < 2**63, "below 2^63")
    if "skip_bad" in types:
        require_at_least(config, "skip_bad", 0)
    if types.get("precision") == Precision:
        require_choice(config, "precision", Precision)
    for name, kind in types.items():
        if kind is bool and not isinstance(getattr(config, name), bool):
            raise InputError(f"{flag(name)} {getattr(config, name)!r}: must be true or false")
        if kind in (str, str | None):
            _require_path_or_text(config, name)
    if "device" in types and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        raise InputError(f"--device {config.device!r}: must be auto, cpu, cuda, cuda:N or mps")


def _require_path_or_text(config: Any, name: str) -> None:
    """Refuse a value that is no text; a `pathlib.Path`, which Python's users pass, becomes text, as in records."""
    if isinstance(getattr(config, name), os.PathLike):
        object.__setattr__(config, name, os.fspath(getattr(config, name)))
    require_text(config, name)
