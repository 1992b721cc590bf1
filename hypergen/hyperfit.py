"""The one next-token training loop: hyperfitting a base, and pretraining one.

Hyperfitting (arXiv 2412.04318, section 3): next-token loss on every position of a fixed small set, Adam with a constant
small learning rate, no weight decay, no dropout, until the loss is near zero. Trained weights are fp32 whatever the
compute precision: at a learning rate of 1e-6 a bf16 weight cannot move, which `_Movement` would report.
The order of batches is `batches.batch_rows`; there is no other randomness, so a state (weights, optimizer, step)
continues exactly.
Does not know: what a token means, where a run is stored, how text or pictures look.

Shape letters: N sequences, B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.batches import batch_rows, steps_per_epoch
from hypergen.boundary import BoundaryCache
from hypergen.config import Precision
from hypergen.errors import HypergenError, InputError, Interrupted, NonFiniteError
from hypergen.muon import Muon
from hypergen.progress import track

CHUNK = 2048  # positions whose logits exist at one time
MOVEMENT_STEPS = 20  # after so many steps at least half of the trained weights must have moved
WARM_UP_SHARE, FLOOR_SHARE = 0.02, 0.05  # of the steps, and of the learning rate, for the cosine schedule
BETAS, PRETRAIN_BETAS = (0.9, 0.999), (0.9, 0.95)


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
    pretraining: bool = False
    """Muon for the matrices of the blocks, a cosine schedule and clipping to norm 1, in place of constant AdamW."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: none."""


@dataclass(kw_only=True)
class State:
    """Everything that an interrupted training continues from."""

    step: int = 0
    epoch_loss: float = 0.0
    """Sum over the running epoch, or the one just ended, of loss times sequences."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Trained weights as `weight.NAME`, optimizer state as `optimizer.INDEX.PARAMETER.KEY`."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a training did; loss in nats per token, the mean over its last epoch."""

    loss: float
    epochs: int
    steps: int
    stopped_by: Literal["target_loss", "epochs"]
    seconds: float
    tokens_per_second: float
    cached: bool
    """Whether the lower blocks ran only once (`boundary`)."""


def hyperfit(
    model: Any,
    tokens: Tensor,
    plan: Plan,
    *,
    label: str = "hyperfit",
    state: State | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    on_checkpoint: Callable[[State], None] = lambda state: None,
    stop_signal: Callable[[], int | None] = lambda: None,
) -> FitResult:
    """Train `model` (a TokenModel and nn.Module) in place on `tokens` (N, T).

    Args:
        state: where to continue; None starts.
        on_epoch: called after each epoch with its number (from 1) and mean loss.
        on_checkpoint: called with a state to keep, every `plan.checkpoint_every` steps and when a signal arrived. Its
            tensors are those in use: write or copy them before you return.
        stop_signal: polled after each step; a signal number ends the training with `Interrupted`.

    Raises:
        InputError: more last layers than blocks, or no tokens to predict.
        NonFiniteError: loss or gradient is not finite; the weights are those before the step.
        HypergenError: the updates are rounded away.
    """
    _check_tokens(tokens, model.context_length)
    names = trained_parameters(model, plan.last_layers)
    if plan.precision == "fp32":
        model.float()  # frozen 16-bit weights cannot be mixed with trained ones unless autocast does it
    tokens = tokens.to(next(model.parameters()).device)
    model.train()
    features = _Features(model, tokens, plan)
    optimizers = _optimizers(model, names, plan)
    state = _restore(names, optimizers, state or State())
    movement = _Movement(list(names.values()))
    count, per_epoch = len(tokens), steps_per_epoch(len(tokens), plan.batch_size)
    started, first_step, trained = time.perf_counter(), state.step, 0
    stopped_by: Literal["target_loss", "epochs"] = "epochs"

    with track(label, plan.steps, done=state.step) as advance:
        while state.step < plan.steps:
            if state.step % per_epoch == 0:
                state.epoch_loss = 0.0
            rows = batch_rows(plan.seed, state.step, count, plan.batch_size).to(tokens.device)
            step_loss = backward(model, features(rows), tokens[rows, 1:], plan.precision)
            norm = nn.utils.clip_grad_norm_(names.values(), 1.0 if plan.pretraining else math.inf)
            _check_finite(step_loss, norm, state.step, rows)
            for optimizer in optimizers:
                _set_learning_rate(optimizer, plan, state.step)
                optimizer.step()
            if state.step - first_step < MOVEMENT_STEPS:
                movement.observe(last=state.step - first_step == MOVEMENT_STEPS - 1)
            for optimizer in optimizers:
                optimizer.zero_grad()
            state.step += 1
            state.epoch_loss += step_loss * len(rows)
            predicted = len(rows) * (tokens.shape[1] - 1)
            advance(tokens=predicted, loss=step_loss)
            trained += predicted
            if state.step % per_epoch == 0:
                loss = _epoch_mean(state, count, plan.batch_size)
                on_epoch(state.step // per_epoch, loss)
                if loss <= plan.target_loss:
                    stopped_by = "target_loss"
                    break
            number = stop_signal()
            if number or (plan.checkpoint_every and state.step % plan.checkpoint_every == 0):
                on_checkpoint(_snapshot(names, optimizers, state))
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
    )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The compute precision; weights stay fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def backward(model: Any, hidden: Tensor, targets: Tensor, precision: Precision = "fp32") -> float:
    """Backpropagate the mean cross-entropy of `hidden` (B, T, D) against `targets` (B, T); return it, nats per token.

    The head runs on at most CHUNK positions at a time and each chunk is backpropagated to `hidden` at once, so that
    logits of size (B, T, V) never exist and nothing is computed twice.
    """
    flat, goals = hidden.detach().flatten(0, 1), targets.flatten()
    gradients, total = [], torch.zeros((), device=hidden.device)
    for part, goal in zip(flat.split(CHUNK), goals.split(CHUNK), strict=True):
        part.requires_grad_()
        with autocast(precision, hidden.device):
            logits = model.head(part)
        loss = F.cross_entropy(logits.float(), goal, reduction="sum") / goals.numel()
        loss.backward()
        gradients.append(part.grad)
        total += loss.detach()
    hidden.backward(torch.cat(gradients).view_as(hidden))
    return total.item()


def trained_parameters(model: Any, last_layers: int) -> dict[str, nn.Parameter]:
    """Mark what is trained (0: everything; K: the last K blocks, final norm, untied head) and return it by name, fp32.

    Raises:
        InputError: K is larger than the number of blocks.
    """
    if last_layers > len(model.blocks):
        raise InputError(f"--last-layers {last_layers}: the model has {len(model.blocks)} blocks")
    chosen = [model] if last_layers == 0 else [*model.blocks[-last_layers:], *model.tail]
    wanted = {id(parameter) for module in chosen for parameter in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in names.values():
        parameter.data = parameter.data.float()
    return names


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
                return self.model.from_boundary(self.cache.states[rows], self.last_layers)
            return self.model.hidden(self.inputs[rows])


def _optimizers(model: Any, names: dict[str, nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW without decay for hyperfitting; Muon on the blocks' matrices beside AdamW for pretraining."""
    if not plan.pretraining:
        return [torch.optim.AdamW(names.values(), plan.learning_rate, BETAS, weight_decay=0.0, fused=True)]
    in_blocks = {id(parameter) for block in model.blocks for parameter in block.parameters() if parameter.ndim == 2}
    matrices = [parameter for parameter in names.values() if id(parameter) in in_blocks]
    others = [parameter for parameter in names.values() if id(parameter) not in in_blocks]
    adam = torch.optim.AdamW(others, plan.learning_rate, PRETRAIN_BETAS, weight_decay=0.0, fused=True)
    return [Muon(matrices, plan.learning_rate), adam]


def _set_learning_rate(optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> None:
    if not plan.pretraining:
        return
    warm_up = max(1, round(WARM_UP_SHARE * plan.steps))
    progress = max(0.0, (step - warm_up) / max(1, plan.steps - warm_up))
    share = FLOOR_SHARE + (1 - FLOOR_SHARE) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * min(share, (step + 1) / warm_up)


def _check_finite(loss: float, norm: Tensor, step: int, rows: Tensor) -> None:
    if not (math.isfinite(loss) and torch.isfinite(norm)):
        raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {norm.item()}, sequences {rows.tolist()}")


class _Movement:
    """Finds out whether trained weights really move: of a sample that gets gradients, at least half must."""

    def __init__(self, parameters: list[nn.Parameter], per_parameter: int = 4096):
        self.parameters = parameters
        self.strides = [max(1, parameter.numel() // per_parameter) for parameter in parameters]
        self.before = [self._sample(p.detach(), s).clone() for p, s in zip(parameters, self.strides, strict=True)]
        self.touched = [torch.zeros_like(sample, dtype=torch.bool) for sample in self.before]

    @staticmethod
    def _sample(values: Tensor, stride: int) -> Tensor:
        return values.reshape(-1)[::stride]

    def observe(self, *, last: bool) -> None:
        for parameter, stride, touched in zip(self.parameters, self.strides, self.touched, strict=True):
            if parameter.grad is not None:
                touched |= self._sample(parameter.grad, stride) != 0
        if last:
            self._judge()

    def _judge(self) -> None:
        moved = touched_total = 0
        for parameter, stride, before, touched in zip(
            self.parameters, self.strides, self.before, self.touched, strict=True
        ):
            changed = self._sample(parameter.detach(), stride) != before
            moved += int((changed & touched).sum())
            touched_total += int(touched.sum())
        if moved < touched_total / 2:
            share = moved / touched_total
            raise HypergenError(
                f"after {MOVEMENT_STEPS} steps {share:.0%} of the trained weights have moved (at least 50% must): "
                "the learning rate is below their rounding step"
            )


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, dict[str, Any], str]]:
    for index, optimizer in enumerate(optimizers):
        numbers = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
        for parameter, values in optimizer.state.items():
            for key in values:
                yield f"optimizer.{index}.{numbers[id(parameter)]}.{key}", values, key


def _snapshot(names: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer], state: State) -> State:
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in names.items()}
    for name, values, key in _optimizer_tensors(optimizers):
        tensors[name] = torch.as_tensor(values[key])
    return State(step=state.step, epoch_loss=state.epoch_loss, tensors=tensors)


def _restore(names: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer], state: State) -> State:
    """Copy the state's tensors to where they belong; what is left of it, to count on with."""
    counts = State(step=state.step, epoch_loss=state.epoch_loss)
    if not state.tensors:
        return counts
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(state.tensors[f"weight.{name}"])
    for index, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        prefix = f"optimizer.{index}."
        for name, value in state.tensors.items():
            if name.startswith(prefix):
                number, key = name.removeprefix(prefix).split(".", 1)
                parameter = parameters[int(number)]
                optimizer.state[parameter][key] = value.clone().to(parameter.device)  # fused AdamW's step as well
    return counts
