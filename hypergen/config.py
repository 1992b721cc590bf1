"""Every option of the four verbs, with its default, meaning and unit, in one place.

The command line is generated from these classes, Python keywords are their fields, and `hypergen.json` records them.
Values are checked here, before anything is loaded. Imports only the standard library and `errors`.
Does not know: options of one modality (`text.config`, `image.config`).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from hypergen.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]
DecodingPrecision = Literal["fp32", "bf16"]
StrategyName = Literal["greedy", "temperature", "top-k", "top-p", "min-p", "fsd", "beam"]

PAPER_RECIPE: dict[str, Any] = {
    # arXiv 2412.04318, section 4: what holds for a model that has no card of its own.
    "num_samples": 2000,
    "epochs": 20,
    "learning_rate": 1e-6,
    "batch_size": 8,
    "last_layers": 0,
    "sequence_length": 256,
}
HELD_OUT_SAMPLES = 64  # prompts of a comparison, at most, unless the user says


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A base from scratch: a codec (BPE or VQ), then the transformer, through the training loop of `fit`."""

    modality: str
    """text or image."""
    data: str
    """Training items: a .txt or .jsonl file, a folder or zip of pictures, a built-in name, or hub:ID."""
    output: str
    """Folder of the new base; must be new or empty."""
    held_out: str | None = None
    """Items the loss is measured on; by default 2 % of the data, never trained on."""
    skip_bad: int = 0
    """Bad rows or pictures of a source that are passed over and counted, at most; 0: the first one is an error."""
    codec_from: str | None = None
    """Folder with a trained codec to use instead of training one."""
    vocabulary_size: int | None = None
    """BPE pieces (default 4096) or VQ codes (default 512)."""
    width: int = 256
    """Width of the transformer."""
    num_layers: int = 6
    """Blocks of the transformer."""
    num_heads: int = 4
    """Attention heads of a block."""
    steps: int = 4000
    """Optimizer steps of the transformer."""
    codec_steps: int = 3000
    """Optimizer steps of a VQ codec (images)."""
    batch_size: int = 16
    """Sequences a step."""
    learning_rate: float = 5e-3
    """Highest learning rate; linear warm-up over 2 % of the steps, cosine to 5 %."""
    seed: int = 0
    """Seed of initialisation and order."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "auto"
    """Compute in fp32 or bf16 autocast, or whichever a short trial finds faster; trained weights are always fp32."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: none but the last."""
    resume: bool = False
    """Continue the newest whole checkpoint of --output."""

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "steps", "codec_steps", "batch_size"):
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
    """text or image; read from --model where that says it."""
    model: str | None = None
    """Base: a folder or hub id; none takes the embedded base of the modality."""
    data: str = "self"
    """Training items: self (drawn from the base), stories, cifar10, a .txt, .jsonl, folder or zip, or hub:ID."""
    prompts: str | None = None
    """Held-out items for the comparison; by default items of --data that were not trained on."""
    skip_bad: int = 0
    """Bad rows or pictures of a source that are passed over and counted, at most; 0: the first one is an error."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler; safetensors need it not."""
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
    max_overlap: float | None = None
    """Stop, too, when greedy completions share longer runs with the training set than so many tokens, on average."""
    measure_every: int = 4
    """Epochs between looks at 16 held-out prompts (loss, entropy, TTR, overlap), for curves and that rule; 0: none."""
    held_out_samples: int | None = None
    """Prompts of the before/after comparison, that many; by default 64, or fewer where there are not so many."""
    max_new_tokens: int | None = None
    """Tokens of a compared completion; by default 96 (text) or the rest of the picture."""
    seed: int = 0
    """Seed of data choice, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "auto"
    """Compute in fp32 or bf16 autocast, or whichever a short trial finds faster; trained weights are always fp32."""
    micro_batch_size: int | None = None
    """Sequences that are run through the model together, the others after them, for the same step; by default all of a
    batch, halved when memory runs out."""
    recompute: bool = False
    """Compute the blocks' activations again in the backward pass: less memory, about a third more time."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints; by default one every ten minutes; 0: only when a signal stops the training, and at
    its end."""
    resume: bool = False
    """Continue the newest whole checkpoint of --output, or start when there is none."""

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
        _require_common(self)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How the next token is chosen. A field left open takes the strategy's value (`strategies.STRATEGIES`)."""

    strategy: StrategyName = "greedy"
    """greedy, temperature, top-k, top-p (paper: p .9, T .7, k 50), min-p, fsd (greedy against its own n-grams,
    arXiv 2305.12675) or beam."""
    temperature: float | None = None
    """Divides the logits, above 0; greedy text does not depend on it."""
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
    """Steps of small models on a CPU in native code, which a C++ compiler makes once (some seconds; on Linux)."""
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
        for name, reader in (("fsd_alpha", "fsd"), ("num_beams", "beam")):
            if getattr(self, name) is not None and self.strategy != reader:
                raise InputError(f"{flag(name)}: only --strategy {reader} reads it; this is {self.strategy}")
        if self.block_citations != 0:
            require_at_least(self, "block_citations", 2)
        _require_common(self)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare a run with its base, decoded in every way that needs no further training, on held-out items."""

    baseline: str | None = None
    """The base: a folder or hub id; by default the one that the run started from."""
    data: str | None = None
    """Held-out items; by default the held-out sequences stored in the run."""
    skip_bad: int = 0
    """Bad rows or pictures of a source that are passed over and counted, at most; 0: the first one is an error."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler; safetensors need it not."""
    completions: str | None = None
    """A .jsonl file of `hypergen generate` for the same prompts, compared as a row of its own."""
    count: int | None = None
    """Examples; by default as many as the run holds out."""
    max_new_tokens: int | None = None
    """Tokens of a completion; by default 96 (text) or the rest of the picture."""
    seed: int = 0
    """Seed of choice, sampling and intervals."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("count", "max_new_tokens"):
            require_at_least(self, name, 1)
        _require_common(self)


def fill(config: Any, recipe: dict[str, Any]) -> Any:
    """The dataclass with every field that is None taken from `recipe`, where that has it; the user's values stay."""
    names = {field.name for field in fields(config)} & recipe.keys()
    return replace(config, **{name: recipe[name] for name in names if getattr(config, name) is None})


def flag(name: str) -> str:
    """`max_new_tokens` -> `--max-new-tokens`."""
    return "--" + name.replace("_", "-")


def require_at_least(config: Any, name: str, least: int) -> None:
    """Refuse what is not a whole number of at least this; None passes where it is the field's default."""
    _require(config, name, lambda value: isinstance(value, int) and value >= least, f"a whole number, {least} or more")


def require_positive(config: Any, name: str) -> None:
    _require(config, name, lambda value: 0 < value < math.inf, "a finite number above 0")


def require_text(config: Any, name: str) -> None:
    """Refuse what is not text that a file name can have; None passes where it is the field's default."""
    value = getattr(config, name)
    is_open = value is None and getattr(type(config), name, "") is None
    if not is_open and (not isinstance(value, str) or "\0" in value):
        raise InputError(f"{flag(name)} {value!r}: must be text without NUL characters")


def require_choice(config: Any, name: str, choices: Any) -> None:
    """Refuse what is not one of a `Literal`'s values."""
    value, allowed = getattr(config, name), get_args(choices)
    if value not in allowed:
        raise InputError(f"{flag(name)} {value!r}: must be {' or '.join(allowed)}")


def _require(config: Any, name: str, is_allowed: Callable[[Any], bool], allowed: str) -> None:
    value = getattr(config, name)
    is_open = value is None and getattr(type(config), name) is None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_open or (is_number and is_allowed(value))):
        raise InputError(f"{flag(name)} {value!r}: must be {allowed}")


def _require_common(config: Any) -> None:
    """The checks of the fields that several configs share, where this one has them, and of every switch."""
    types = {field.name: field.type for field in fields(config)}
    require_at_least(config, "seed", 0)
    _require(config, "seed", lambda value: value < 2**63, "below 2^63")
    if "precision" in types:
        require_choice(config, "precision", Precision)
    if "device" in types and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(config.device)):
        raise InputError(f"--device {config.device!r}: must be auto, cpu, cuda, cuda:N or mps")
    for name in (name for name, kind in types.items() if kind == "bool"):
        if not isinstance(getattr(config, name), bool):
            raise InputError(f"{flag(name)} {getattr(config, name)!r}: must be true or false")
    if "skip_bad" in types:
        require_at_least(config, "skip_bad", 0)
    for name in (name for name, kind in types.items() if kind in ("str", "str | None")):
        if isinstance(getattr(config, name), os.PathLike):  # a pathlib.Path from Python; records hold text
            object.__setattr__(config, name, os.fspath(getattr(config, name)))
        require_text(config, name)
