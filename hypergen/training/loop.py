"""Train on next-token loss, in one loop for hyperfitting a base and for pretraining one.

Hyperfitting (arXiv 2412.04318, section 3): next-token loss on every position of a fixed small set, or on those of a
loss mask; Adam with a constant small learning rate, no weight decay, no dropout, until the loss is near zero. Trained
weights are fp32 whatever the compute precision: at a learning rate of 1e-6 a bf16 weight cannot move, which
`update_check` would report.
The order of batches is `batch_order.batch_rows`; there is no other randomness, so a state (weights, optimizer, step)
continues exactly.
Does not know what a token means.

Shape letters: N sequences, B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from hypergen.config import Precision
from hypergen.errors import HypergenError, InputError, Interrupted, NonFiniteError
from hypergen.modality import TruncatableModel
from hypergen.runtime.console import warn
from hypergen.runtime.distributed import Processes
from hypergen.runtime.evaluation_mode import training
from hypergen.runtime.progress import track
from hypergen.training.activation_cache import ActivationCache
from hypergen.training.activation_checkpointing import checkpointed
from hypergen.training.batch_order import batch_rows, epoch_order, steps_per_epoch
from hypergen.training.loss import IGNORED, BatchLoss, backward
from hypergen.training.optimizers import new_optimizers, set_learning_rate
from hypergen.training.parameters import mark_trained
from hypergen.training.plan import EpochMetrics, FitResult, Plan, StoppedBy, TrainingHooks
from hypergen.training.precision import FrozenCasts, autocast, choose_precision
from hypergen.training.state import State, restore, snapshot
from hypergen.training.update_check import UpdateCheck

PRETRAIN_MAX_NORM = 1.0  # of the gradient; hyperfitting does not clip


def hyperfit(
    model: TruncatableModel,
    tokens: Tensor,
    plan: Plan,
    hooks: TrainingHooks = TrainingHooks(),  # noqa: B008 (frozen)
    *,
    label: str = "hyperfit",
    processes: Processes = Processes(),  # noqa: B008 (frozen)
    loss_mask: Tensor | None = None,
) -> FitResult:
    """Train a model in place on a fixed set of sequences.

    Args:
        model: left in evaluation mode, whatever ends the training.
        tokens: (N, T) ids.
        plan: the values to follow.
        hooks: the state to continue from, callbacks, and reasons to stop.
        label: of the progress; empty: none is shown.
        processes: those that train together, each with the same arguments; the first one's callbacks count.
        loss_mask: (N, T), the tokens to predict: loss and accuracy are means over them; None: all but the first.

    Raises:
        InputError: more last layers than blocks, or no tokens to predict.
        NonFiniteError: loss or gradient is not finite; the weights are those before the step.
        CheckpointError: the state is not one of this training.
        Interrupted: a signal arrived; the state was handed to `hooks.on_checkpoint` first.
        HypergenError: the updates are rounded away, or one sequence is too much for the memory.
    """
    _check_tokens(tokens, model.context_length)
    _check_mask(loss_mask, tokens.shape)
    parameters, state = mark_trained(model, plan.last_layers), replace(hooks.state or State())
    if plan.micro_batch_size is not None and not state.micro_batch_size:  # memory has not halved it yet
        state.micro_batch_size = plan.micro_batch_size
    tokens = tokens.to(next(model.parameters()).device)
    targets = _targets(tokens, loss_mask)
    state.precision = processes.broadcast(_resolve_precision(model, tokens, targets, plan, state, label))
    plan = replace(plan, precision=state.precision)
    if plan.precision == "fp32":
        model.float()  # frozen 16-bit weights cannot be mixed with trained ones unless autocast does it
    features = BatchFeatures(model, tokens, targets, plan, label)
    optimizers = new_optimizers(model, parameters, plan)
    state = restore(parameters, optimizers, state)
    update_check = UpdateCheck(list(parameters.values()))
    count, per_epoch = len(tokens), steps_per_epoch(len(tokens), plan.batch_size)
    max_norm = PRETRAIN_MAX_NORM if plan.pretraining else math.inf
    started, num_trained = time.perf_counter(), 0
    saved = started

    with (
        training(model),
        hooks.whole_steps(),
        checkpointed([*model.blocks], plan.recompute),
        track(label, plan.steps, done=state.step) as advance,
    ):
        _, stopped_by = processes.sync_stop(None, _stopped_by(state, plan, features, hooks.stop_rule))
        while stopped_by is None:
            # 1. Select the rows of the batch; the first batch of an epoch starts new sums.
            if state.step % per_epoch == 0:
                state.epoch_loss, state.epoch_correct = 0.0, 0
            rows = batch_rows(plan.seed, state.step, count, plan.batch_size)
            num_predicted, rows = features.num_predicted(rows), rows.to(tokens.device)

            # 2. Forward and backward, on this process's share of the batch, in parts that fit into memory.
            own = _accumulate_gradients(model, features, processes.shard(rows), num_predicted, state)

            # 3. All-reduce: every process gets the gradient and the loss of the whole batch.
            step_loss, num_correct = processes.all_reduce_gradients(parameters.values(), own)

            # 4. Clip, and check that all is finite: from here on the weights change.
            norm = nn.utils.clip_grad_norm_(parameters.values(), max_norm)
            _check_finite(step_loss, norm, state.step, rows)

            # 5. Step; gradients are dropped once it is known which weights they should have moved.
            for optimizer in optimizers:
                set_learning_rate(optimizer, plan, state.step)
                optimizer.step()
            update_check.observe()
            model.zero_grad()

            # 6. Count, and log the epoch where it ends.
            state.step += 1
            state.epoch_loss += step_loss * features.num_sequences(num_predicted)
            state.epoch_correct += int(num_correct)
            advance(tokens=num_predicted, loss=step_loss, accuracy=num_correct / num_predicted)
            num_trained += num_predicted
            if state.step % per_epoch == 0:
                paused = time.perf_counter()
                hooks.on_epoch(state.step // per_epoch, _epoch_metrics(state, plan, features))
                started += time.perf_counter() - paused  # measuring is not training

            # 7. Stop where a signal, the plan or a rule says so, and save a checkpoint then and whenever one is due.
            signal, stopped_by = processes.sync_stop(
                hooks.stop_signal(), _stopped_by(state, plan, features, hooks.stop_rule)
            )
            is_due = time.perf_counter() - saved >= plan.checkpoint_seconds
            if signal or stopped_by or is_due or (plan.checkpoint_every and state.step % plan.checkpoint_every == 0):
                hooks.on_checkpoint(snapshot(parameters, optimizers, state))
                saved = time.perf_counter()
            if signal:
                raise Interrupted(signal, f"stopped by signal {signal} after step {state.step}; --resume continues")
    seconds = time.perf_counter() - started
    return FitResult(
        **_epoch_metrics(state, plan, features)._asdict(),
        epochs=state.step // per_epoch,
        steps=state.step,
        stopped_by=stopped_by,
        seconds=seconds,
        tokens_per_second=num_trained / max(seconds, 1e-9),
        cached=features.cache is not None,
        precision=plan.precision,
        micro_batch_size=state.micro_batch_size or plan.batch_size,
    )


class BatchFeatures:
    """Compute the last hidden states of sequences by row number, from cached activations where blocks are frozen."""

    def __init__(self, model: TruncatableModel, tokens: Tensor, targets: Tensor, plan: Plan, label: str = ""):
        """Build the cache for tokens (N, T), where there is something to cache; an empty label shows no progress."""
        self.model, self.inputs, self.targets = model, tokens[:, :-1], targets
        self._num_predicted = (targets != IGNORED).sum(1).cpu()
        self.last_layers, self.precision, self._casts = plan.last_layers, plan.precision, FrozenCasts()
        with torch.no_grad(), autocast(plan.precision, tokens.device):
            label = label and f"{label}: activation cache"
            self.cache = ActivationCache.build(model, self.inputs, plan.last_layers, plan.batch_size, label=label)

    def __call__(self, rows: Tensor) -> Tensor:
        """Compute: rows (B,) -> (B, T - 1, D), of the sequences without their last token."""
        with autocast(self.precision, self.inputs.device):
            if self.cache is not None:
                return self.model.forward_from(self.cache.rows(rows), self.last_layers)
            return self.model.hidden(self.inputs[rows])

    def backward(self, rows: Tensor, share: float) -> BatchLoss:
        """Backpropagate the loss of sequences `rows` (B,), as a share of the batch's mean."""
        targets = self.targets[rows]
        return backward(self.model, self(rows), targets, self.precision, share=share, casts=self._casts)

    def num_predicted(self, rows: Tensor) -> int:
        """Count the targets of sequences `rows` (B,), on the CPU, that the loss counts."""
        return int(self._num_predicted[rows].sum())

    def num_sequences(self, num_predicted: int) -> float:
        """Convert targets into sequences: as many as have so many of them without a mask."""
        return num_predicted / self.targets.shape[1]


def _accumulate_gradients(
    model: TruncatableModel, features: BatchFeatures, rows: Tensor, num_predicted: int, state: State
) -> BatchLoss:
    """Backpropagate the share of these rows in a batch's mean loss; out of memory, start again in smaller parts.

    The mean is that over the `num_predicted` targets of the whole batch, however they lie in its parts.

    The gradient is that of the whole up to rounding, so the recipe stays the same.
    """
    while len(rows):
        loss, num_correct = 0.0, 0
        try:
            for part in rows.split(state.micro_batch_size or len(rows)):
                found = features.backward(part, share=len(part) * features.targets.shape[1] / num_predicted)
                loss, num_correct = loss + found.loss, num_correct + found.num_correct
            return BatchLoss(loss, num_correct)
        except torch.OutOfMemoryError as error:
            if (state.micro_batch_size or len(rows)) == 1:
                raise HypergenError("out of memory with one sequence at a time; shorten the sequences") from error
        model.zero_grad()
        state.micro_batch_size = -(-min(state.micro_batch_size or len(rows), len(rows)) // 2)
        warn(f"out of memory: going on with {state.micro_batch_size} sequences at a time")
        _empty_memory_cache()
    return BatchLoss(0.0, 0)


def _empty_memory_cache() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _stopped_by(
    state: State, plan: Plan, features: BatchFeatures, stop_rule: Callable[[int], StoppedBy | None]
) -> StoppedBy | None:
    """Find the reason to stop at this step; None while the training goes on."""
    epochs, steps_of_next = divmod(state.step, steps_per_epoch(len(features.targets), plan.batch_size))
    if epochs and not steps_of_next:
        metrics = _epoch_metrics(state, plan, features)
        if metrics.loss <= plan.target_loss:
            return "target_loss"
        if plan.target_accuracy is not None and metrics.accuracy >= plan.target_accuracy:
            return "target_accuracy"
        if (rule := stop_rule(epochs)) is not None:
            return rule
    return "epochs" if state.step >= plan.steps else None


def _epoch_metrics(state: State, plan: Plan, features: BatchFeatures) -> EpochMetrics:
    """Average over the targets of the last epoch seen so far; nan before the first step."""
    if not state.step:
        return EpochMetrics(math.nan, math.nan)
    count = len(features.targets)
    epoch, steps = divmod(state.step - 1, steps_per_epoch(count, plan.batch_size))
    seen = epoch_order(plan.seed, epoch, count)[: (steps + 1) * plan.batch_size]
    num_seen = features.num_predicted(seen)
    return EpochMetrics(state.epoch_loss / features.num_sequences(num_seen), state.epoch_correct / num_seen)


def _resolve_precision(
    model: TruncatableModel, tokens: Tensor, targets: Tensor, plan: Plan, state: State, label: str
) -> Precision:
    """Take the precision of the plan or of the state that goes on; find it by trial where both leave it open."""
    fixed = state.precision if plan.precision == "auto" else plan.precision
    if fixed != "auto":
        return fixed
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "bf16"  # frozen 16-bit weights: fp32 would take twice their memory

    rows = torch.arange(min(plan.batch_size, len(tokens)), device=tokens.device)
    features: dict[Precision, BatchFeatures] = {}  # those of the step that will run, built in its warm-up

    def step(precision: Precision) -> None:
        if precision not in features:
            one_batch = tokens[: len(rows)], targets[: len(rows)]
            features[precision] = BatchFeatures(model, *one_batch, replace(plan, precision=precision))
        features[precision].backward(rows, share=1.0)
        model.zero_grad()

    return choose_precision(step, tokens.device, plan.steps, label=label and f"{label}: trial of precisions")


def _targets(tokens: Tensor, loss_mask: Tensor | None) -> Tensor:
    """Take the token after each position: (N, T) -> (N, T - 1), IGNORED where the mask leaves it out."""
    if loss_mask is None:
        return tokens[:, 1:]
    return tokens[:, 1:].masked_fill(~loss_mask[:, 1:].to(tokens.device), IGNORED)


def _check_mask(loss_mask: Tensor | None, shape: torch.Size) -> None:
    if loss_mask is None:
        return
    if loss_mask.dtype != torch.bool or loss_mask.shape != shape or not bool(loss_mask[:, 1:].any(1).all()):
        found = f"{loss_mask.dtype} of shape {tuple(loss_mask.shape)}"
        allowed = f"truth values {tuple(shape)}, some true behind the first token of each sequence"
        raise InputError(f"loss mask: {found}; must be {allowed}")


def _check_tokens(tokens: Tensor, context_length: int) -> None:
    shape = tuple(tokens.shape)
    if len(shape) != 2 or shape[0] < 1 or not 2 <= shape[1] <= context_length:
        allowed = f"(N, T) with N 1 or more and T from 2 to the model's context of {context_length}"
        raise InputError(f"training tokens of shape {shape}: must be {allowed}")


def _check_finite(loss: float, norm: Tensor, step: int, rows: Tensor) -> None:
    if not (math.isfinite(loss) and torch.isfinite(norm)):
        raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {norm.item()}, sequences {rows.tolist()}")
