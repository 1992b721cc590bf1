"""Describe a training: its plan, its hooks and its result.

`fit` and `pretrain` differ only in the plan's values, so one loop serves both. A plan has no defaults: they are in
`config`, once, and a value that a caller forgot is an error, not a training at another rate.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hypergen.config import Precision
from hypergen.training.state import State

StoppedBy = Literal["target_loss", "target_accuracy", "overlap", "epochs"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold the values that one training follows."""

    steps: int
    """Optimizer steps, at most."""
    batch_size: int
    """Sequences a step."""
    learning_rate: float
    """Constant in hyperfitting, the schedule's peak in pretraining."""
    seed: int
    """Seed of the batch order."""
    target_loss: float
    """Nats per token: an epoch's mean at or below it ends the training; 0: only the steps end it."""
    target_accuracy: float | None
    """Token accuracy, 0 to 1: an epoch at or above it ends the training, too; none: no such rule."""
    last_layers: int
    """Blocks that train, counted from the last one; 0: everything."""
    precision: Precision
    """Compute precision; auto: found by a short trial when the training starts."""
    pretraining: bool
    """Muon for the matrices of the blocks, a cosine schedule and clipping to norm 1, in place of constant AdamW."""
    micro_batch_size: int | None
    """Sequences per forward pass (gradient accumulation); none: the whole batch, halved when memory runs out."""
    recompute: bool
    """Compute activations again in the backward pass instead of keeping them."""
    checkpoint_every: int
    """Steps between checkpoints; 0: only when it ends."""
    checkpoint_seconds: float
    """Time after which the next step ends in a checkpoint, too; infinite: never."""


class EpochMetrics(NamedTuple):
    """Hold the training metrics of an epoch, each batch's taken before its step."""

    loss: float
    """Nats per token, the mean over all tokens that count."""
    accuracy: float
    """Share of its tokens whose argmax prediction, given the true past, was right, 0 to 1 (arXiv 2602.11149)."""


@dataclass(frozen=True, kw_only=True)
class TrainingHooks:
    """Connect a training with its caller: the state to continue from, callbacks, reasons to stop.

    The defaults do nothing, so that a training needs neither a folder nor signals.
    """

    state: State | None = None
    """Where to continue; none: start."""
    on_epoch: Callable[[int, EpochMetrics], None] = lambda epoch, metrics: None
    """Called after each epoch with its number (from 1) and metrics; its time does not count as training."""
    on_checkpoint: Callable[[State], None] = lambda state: None
    """Called with a state to keep: every `Plan.checkpoint_every` steps, after `Plan.checkpoint_seconds`, when a signal
    arrived, and when the training ends. The tensors are those in use: write or copy them before you return."""
    stop_rule: Callable[[int], StoppedBy | None] = lambda epoch: None
    """Asked after `on_epoch` for each epoch, and again when a training goes on from its end: a reason to stop there."""
    stop_signal: Callable[[], int | None] = lambda: None
    """Polled after each step; a signal's number ends the training with `Interrupted`."""
    whole_steps: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes the context around the steps, in which a signal must only be noted."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Hold the outcome of a training."""

    loss: float
    """Nats per token, the mean over the last epoch."""
    accuracy: float
    """Share of the last epoch's tokens whose argmax prediction was right, 0 to 1."""
    epochs: int
    steps: int
    stopped_by: StoppedBy
    seconds: float
    tokens_per_second: float
    cached: bool
    """Whether the lower blocks ran only once (`activation_cache`)."""
    precision: Precision
    """Compute precision."""
    micro_batch_size: int
    """Sequences per forward pass: the batch size, or less where memory ran out."""
