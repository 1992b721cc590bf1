"""The one next-token training loop: hyperfitting a base, and pretraining one.

Hyperfitting (arXiv 2412.04318, section 3): next-token loss on every position of a fixed small set, Adam with a constant
small learning rate, no weight decay, no dropout, until the loss is near zero. Trained weights are fp32 whatever the
compute precision: at a learning rate of 1e-6 a bf16 weight cannot move, which `movement` would report.
The order of batches is `batches.batch_rows`; there is no other randomness, so a state (weights, optimizer, step)
continues exactly.
Does not know: what a token means, where a run is stored, how text or pictures look.

Shape letters: N sequences, B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.batches import batch_rows, steps_per_epoch
from hypergen.boundary import BoundaryCache
from hypergen.config import Precision
from hypergen.errors import HypergenError, InputError, Interrupted, NonFiniteError
from hypergen.movement import Movement
from hypergen.optimizers import new_optimizers, set_learning_rate
from hypergen.precision import autocast, choose
from hypergen.processes import Processes
from hypergen.progress import track
from hypergen.recompute import recomputed
from hypergen.training_state import BYTES_PER_WEIGHT, State, restore, snapshot

CHUNK = 2048  # positions whose logits exist at one time, at most
CHUNK_BYTES = 4 * 2**20  # of those logits on a CPU: what its caches hold (measured: a third of the time of 32 MiB)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one training does. `fit` and `pretrain` differ only in these values."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    target_loss: float = 0.0
    last_layers: int = 0
    precision: Precision = "fp32"
    """auto: found by a short trial when the training starts."""
    pretraining: bool = False
    """Muon for the matrices of the blocks, a cosine schedule and clipping to norm 1, in place of constant AdamW."""
    micro_batch_size: int | None = None
    """Sequences that are run through the model together; none: the whole batch, or less where memory runs out."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: only when it ends."""
    checkpoint_seconds: float = math.inf
    """Time after which the next step ends in a checkpoint, too."""


StoppedBy = Literal["target_loss", "overlap", "epochs"]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a training did; loss in nats per token, the mean over its last epoch."""

    loss: float
    epochs: int
    steps: int
    stopped_by: StoppedBy
    seconds: float
    tokens_per_second: float
    cached: bool
    """Whether the lower blocks ran only once (`boundary`)."""
    precision: Precision
    """What it computed in."""
    micro_batch_size: int
    """Sequences that were run through the model together: the batch size, or less where memory ran out."""


def hyperfit(
    model: Any,
    tokens: Tensor,
    plan: Plan,
    *,
    label: str = "hyperfit",
    state: State | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    on_checkpoint: Callable[[State], None] = lambda state: None,
    stop_rule: Callable[[int], StoppedBy | None] = lambda epoch: None,
    stop_signal: Callable[[], int | None] = lambda: None,
    whole_steps: AbstractContextManager = nullcontext(),  # noqa: B008 (stateless)
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> FitResult:
    """Train `model` (a TokenModel and nn.Module) in place on `tokens` (N, T).

    Args:
        state: where to continue; None starts.
        on_epoch: called after each epoch with its number (from 1) and mean loss.
        on_checkpoint: called with a state to keep, every `plan.checkpoint_every` steps, when a signal arrived and when
            the training ends. Its tensors are those in use: write or copy them before you return.
        stop_rule: asked for each epoch after `on_epoch`, and again when a training goes on from its end: what ends it.
        stop_signal: polled after each step; a signal number ends the training with `Interrupted`.
        whole_steps: entered around the steps, in which a signal must only be noted.
        processes: those that train together, each with the same arguments; the first one's callbacks count.

    Raises:
        InputError: more last layers than blocks, or no tokens to predict.
        NonFiniteError: loss or gradient is not finite; the weights are those before the step.
        CheckpointError: the state is not one of this training.
        HypergenError: the updates are rounded away, or one sequence is too much for the memory.
    """
    _check_tokens(tokens, model.context_length)
    names, state = trained_parameters(model, plan.last_layers), state or State()
    state.micro_batch_size = state.micro_batch_size or plan.micro_batch_size or 0
    tokens = tokens.to(next(model.parameters()).device)
    model.train()
    state.precision = processes.same(_chosen_precision(model, tokens, plan, state))
    plan = replace(plan, precision=state.precision)
    if plan.precision == "fp32":
        model.float()  # frozen 16-bit weights cannot be mixed with trained ones unless autocast does it
    features = _Features(model, tokens, plan)
    optimizers = new_optimizers(model, names, plan)
    state = restore(names, optimizers, state)
    movement = Movement(list(names.values()))
    count, per_epoch = len(tokens), steps_per_epoch(len(tokens), plan.batch_size)
    started, trained = time.perf_counter(), 0
    saved = started

    with whole_steps, recomputed(model.blocks, plan.recompute), track(label, plan.steps, done=state.step) as advance:
        _, stopped_by = processes.agree(None, _stopped_by(state, plan, count, stop_rule))
        while stopped_by is None:
            if state.step % per_epoch == 0:
                state.epoch_loss = 0.0
            rows = batch_rows(plan.seed, state.step, count, plan.batch_size).to(tokens.device)
            own_loss = _accumulate(model, features, tokens, processes.own(rows), len(rows), state, plan.precision)
            step_loss = processes.add_up(names.values(), own_loss)
            norm = nn.utils.clip_grad_norm_(names.values(), 1.0 if plan.pretraining else math.inf)
            _check_finite(step_loss, norm, state.step, rows)
            for optimizer in optimizers:
                set_learning_rate(optimizer, plan, state.step)
                optimizer.step()
            movement.observe()
            model.zero_grad()
            state.step += 1
            state.epoch_loss += step_loss * len(rows)
            predicted = len(rows) * (tokens.shape[1] - 1)
            advance(tokens=predicted, loss=step_loss)
            trained += predicted
            if state.step % per_epoch == 0:
                paused = time.perf_counter()
                on_epoch(state.step // per_epoch, _epoch_mean(state, count, plan.batch_size))
                started += time.perf_counter() - paused  # looking is not training
            number, stopped_by = processes.agree(stop_signal(), _stopped_by(state, plan, count, stop_rule))
            is_due = time.perf_counter() - saved >= plan.checkpoint_seconds
            if number or stopped_by or is_due or (plan.checkpoint_every and state.step % plan.checkpoint_every == 0):
                on_checkpoint(snapshot(names, optimizers, state))
                saved = time.perf_counter()
            if number:
                raise Interrupted(number, f"stopped by signal {number} after step {state.step}; --resume continues")
    model.eval()
    seconds = time.perf_counter() - started
    return FitResult(
        loss=_epoch_mean(state, count, plan.batch_size),
        epochs=state.step // per_epoch,
        steps=state.step,
        stopped_by=stopped_by,
        seconds=seconds,
        tokens_per_second=trained / max(seconds, 1e-9),
        cached=features.cache is not None,
        precision=plan.precision,
        micro_batch_size=state.micro_batch_size or plan.batch_size,
    )


def _stopped_by(state: State, plan: Plan, count: int, stop_rule: Callable[[int], StoppedBy | None]) -> StoppedBy | None:
    """What ends the training at this step; None while it goes on."""
    epochs, steps = divmod(state.step, steps_per_epoch(count, plan.batch_size))
    if epochs and not steps:
        if _epoch_mean(state, count, plan.batch_size) <= plan.target_loss:
            return "target_loss"
        if (rule := stop_rule(epochs)) is not None:
            return rule
    return "epochs" if state.step >= plan.steps else None


def _accumulate(
    model: Any, features: _Features, tokens: Tensor, rows: Tensor, batch: int, state: State, precision: Precision
) -> float:
    """Backpropagate what these rows add to the mean loss of a batch of so many; out of memory, again in smaller parts.

    The gradient is that of the whole up to rounding, so the recipe stays the same.
    """
    while len(rows):
        loss = 0.0
        try:
            for part in rows.split(state.micro_batch_size or len(rows)):
                loss += backward(model, features(part), tokens[part, 1:], precision, share=len(part) / batch)
            return loss
        except torch.OutOfMemoryError as error:
            if (state.micro_batch_size or len(rows)) == 1:
                raise HypergenError("out of memory with one sequence at a time; shorten the sequences") from error
        model.zero_grad()
        state.micro_batch_size = -(-min(state.micro_batch_size or len(rows), len(rows)) // 2)
        print(f"out of memory: going on with {state.micro_batch_size} sequences at a time", file=sys.stderr)
        _free_memory()
    return 0.0


def _free_memory() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _chosen_precision(model: Any, tokens: Tensor, plan: Plan, state: State) -> Precision:
    """That of the plan or of the state that goes on; by trial where both leave it open."""
    fixed = state.precision if plan.precision == "auto" else plan.precision
    if fixed != "auto":
        return fixed
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "bf16"  # frozen 16-bit weights: fp32 would take twice their memory

    def step(precision: Precision) -> None:
        with autocast(precision, tokens.device):
            hidden = model.hidden(tokens[: plan.batch_size, :-1])
        backward(model, hidden, tokens[: plan.batch_size, 1:], precision)
        model.zero_grad()

    return choose(step, tokens.device, plan.steps)


def backward(
    model: Any, hidden: Tensor, targets: Tensor, precision: Precision = "fp32", *, share: float = 1.0
) -> float:
    """Backpropagate `share` times the mean cross-entropy of `hidden` (B, T, D) against `targets` (B, T).

    Returns it, in nats per token.

    The head runs on a chunk of positions at a time and each chunk is backpropagated to `hidden` at once, so that
    logits of size (B, T, V) never exist and nothing is computed twice.
    """
    flat, goals = hidden.detach().flatten(0, 1), targets.flatten()
    gradients, total, chunk = [], torch.zeros((), device=hidden.device), _chunk(model.num_tokens, hidden.device)
    for part, goal in zip(flat.split(chunk), goals.split(chunk), strict=True):
        part.requires_grad_()
        with autocast(precision, hidden.device):
            logits = model.head(part)
        loss = F.cross_entropy(logits.float(), goal, reduction="sum") / goals.numel() * share
        loss.backward()
        gradients.append(part.grad)
        total += loss.detach()
    hidden.backward(torch.cat(gradients).view_as(hidden))
    return total.item()


def _chunk(num_tokens: int, device: torch.device) -> int:
    """Positions whose logits are made together; not fewer than 64, which a product needs to be worth its call."""
    return CHUNK if device.type != "cpu" else min(CHUNK, max(64, CHUNK_BYTES // (4 * num_tokens)))


def trained_parameters(model: Any, last_layers: int) -> dict[str, nn.Parameter]:
    """Mark what is trained (0: everything; K: the last K blocks, final norm, untied head) and return it by name, fp32.

    Raises:
        InputError: K is larger than the number of blocks.
    """
    if last_layers > len(model.blocks):
        raise InputError(f"--last-layers {last_layers}: the model has {len(model.blocks)} blocks")
    wanted = _chosen(model, last_layers)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in names.values():
        parameter.data = parameter.data.float()
    return names


def state_bytes(model: Any, last_layers: int) -> int:
    """What a checkpoint takes on a disk."""
    return BYTES_PER_WEIGHT * sum(parameter.numel() for parameter in _chosen(model, last_layers).values())


def _chosen(model: Any, last_layers: int) -> dict[int, nn.Parameter]:
    modules = [model] if last_layers == 0 else [*model.blocks[-last_layers:], *model.tail]
    return {id(parameter): parameter for module in modules for parameter in module.parameters()}


def _check_tokens(tokens: Tensor, context_length: int) -> None:
    shape = tuple(tokens.shape)
    if len(shape) != 2 or shape[0] < 1 or not 2 <= shape[1] <= context_length:
        allowed = f"(N, T) with N 1 or more and T from 2 to the model's context of {context_length}"
        raise InputError(f"training tokens of shape {shape}: must be {allowed}")


def _epoch_mean(state: State, count: int, batch_size: int) -> float:
    """Mean loss over the sequences of the last epoch seen so far; nan before the first step."""
    steps = state.step and (state.step - 1) % steps_per_epoch(count, batch_size) + 1
    return state.epoch_loss / min(steps * batch_size, count) if steps else math.nan


class _Features:
    """Row numbers -> hidden states (B, T - 1, D) of the sequences without their last token, lower blocks cached."""

    def __init__(self, model: Any, tokens: Tensor, plan: Plan):
        self.model, self.inputs, self.last_layers = model, tokens[:, :-1], plan.last_layers
        self.precision = plan.precision
        with torch.no_grad(), autocast(plan.precision, tokens.device):
            self.cache = BoundaryCache.build(model, self.inputs, plan.last_layers, plan.batch_size)

    def __call__(self, rows: Tensor) -> Tensor:
        with autocast(self.precision, self.inputs.device):
            if self.cache is not None:
                return self.model.from_boundary(self.cache.rows(rows), self.last_layers)
            return self.model.hidden(self.inputs[rows])


def _check_finite(loss: float, norm: Tensor, step: int, rows: Tensor) -> None:
    if not (math.isfinite(loss) and torch.isfinite(norm)):
        raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {norm.item()}, sequences {rows.tolist()}")
