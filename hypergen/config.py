"""Every option of the four verbs, with its default, meaning and unit, in one place.

The command line is generated from these classes, Python keywords are their fields, and `hypergen.json` records them.
Values are checked here, before anything is loaded. Imports only the standard library and `errors`.
Does not know: options of one modality (`text.config`, `image.config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hypergen.errors import InputError

Precision = Literal["fp32", "bf16"]
StrategyName = Literal["greedy", "temperature", "top-k", "top-p", "min-p"]

PAPER_RECIPE: dict[str, Any] = {
    # arXiv 2412.04318, section 4: what holds for a model that has no card of its own.
    "num_samples": 2000,
    "epochs": 20,
    "learning_rate": 1e-6,
    "batch_size": 8,
    "last_layers": 0,
}


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
    learning_rate: float = 3e-3
    """Highest learning rate; linear warm-up over 2 % of the steps, cosine to 5 %."""
    seed: int = 0
    """Seed of initialisation and order."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "fp32"
    """Compute in fp32 or bf16 autocast; weights are always trained in fp32."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: none but the last."""
    resume: bool = False
    """Continue the newest whole checkpoint of --output."""

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "steps", "codec_steps", "batch_size"):
            require_at_least(self, name, 1)
        require_positive(self, "learning_rate")
        require_at_least(self, "checkpoint_every", 0)
        require_seed(self.seed)
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
    held_out_samples: int = 64
    """Prompts of the before/after comparison."""
    max_new_tokens: int | None = None
    """Tokens of a compared completion; by default 96 (text) or the rest of the picture."""
    seed: int = 0
    """Seed of data choice, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "fp32"
    """Compute in fp32 or bf16 autocast; trained weights are always fp32."""
    checkpoint_every: int = 0
    """Epochs between checkpoints; 0: only when a signal stops the run."""
    resume: bool = False
    """Continue the newest whole checkpoint of --output, or start when there is none."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "epochs", "batch_size", "held_out_samples", "max_new_tokens"):
            require_at_least(self, name, 1)
        for name in ("last_layers", "checkpoint_every"):
            require_at_least(self, name, 0)
        require_positive(self, "learning_rate")
        if not (math.isfinite(self.target_loss) and self.target_loss >= 0):
            raise InputError(f"--target-loss {self.target_loss}: must be a finite number of nats per token, 0 or more")
        require_seed(self.seed)

    def with_recipe(self, card: dict[str, Any]) -> FitConfig:
        """Fill what the user left open: first from the base's card, then from the paper."""
        recipe = PAPER_RECIPE | {name: value for name, value in card.items() if name in PAPER_RECIPE}
        return replace(self, **{name: value for name, value in recipe.items() if getattr(self, name) is None})


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How the next token is chosen. A field left open takes the strategy's value (`generation.STRATEGIES`)."""

    strategy: StrategyName = "greedy"
    """greedy, temperature, top-k, top-p (paper: p .9, T .7, k 50) or min-p."""
    temperature: float | None = None
    """Divides the logits, above 0; greedy text does not depend on it."""
    top_k: int | None = None
    """Keep the k most likely tokens, 1 or more."""
    top_p: float | None = None
    """Keep the smallest set with at least this probability, above 0 to 1."""
    min_p: float | None = None
    """Keep tokens at least this likely relative to the most likely one, 0 to 1."""
    repetition_penalty: float = 1.0
    """Divides (multiplies) positive (negative) logits of tokens already present; 1: off (arXiv 1909.05858)."""
    block_citations: int = 0
    """Never complete an n-gram of this length that the training set has; 0: off, else 2 or more (paper: 5)."""
    stop_at_end: bool = True
    """End a completion at the end token."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        require_at_least(self, "top_k", 1)
        for name in ("temperature", "repetition_penalty"):
            require_positive(self, name)
        for name, low_allowed in (("top_p", False), ("min_p", True)):
            value = getattr(self, name)
            if value is not None and not (0 < value <= 1 or (low_allowed and value == 0)):
                raise InputError(f"{flag(name)} {value}: must be above 0 and at most 1")
        if self.block_citations != 0:
            require_at_least(self, "block_citations", 2)
        require_seed(self.seed)


def flag(name: str) -> str:
    """`max_new_tokens` -> `--max-new-tokens`."""
    return "--" + name.replace("_", "-")


def require_at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise InputError(f"{flag(name)} {value}: must be a whole number, {least} or more")


def require_positive(config: Any, name: str) -> None:
    value = getattr(config, name)
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InputError(f"{flag(name)} {value}: must be a finite number above 0")


def require_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}: must be between 0 and 2^63 - 1")


def field_names(config_class: type) -> set[str]:
    return {field.name for field in fields(config_class)}
