"""Take a snapshot of a training and restore it: trained weights, optimizer state, counts.

The order of batches is a function of (seed, step) and there is no other randomness, so nothing more is needed to go on
exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hypergen.config import Precision
from hypergen.errors import CheckpointError

BYTES_PER_WEIGHT = 12  # an fp32 weight and the two moments of Adam
Weights = Mapping[str, Tensor]


@dataclass(kw_only=True)
class State:
    """Hold the counts of a training and, in a checkpoint, its tensors."""

    step: int = 0
    """Optimizer steps taken."""
    epoch_loss: float = 0.0
    """Sum over the running epoch, or the one just ended, of loss times sequences (with a loss mask, fractions of them:
    the tokens that count over those of a sequence)."""
    epoch_correct: int = 0
    """Tokens of the same sequences that count, and whose argmax prediction was right."""
    micro_batch_size: int = 0
    """Sequences per forward pass; 0: the whole batch. Halved when memory runs out."""
    precision: Precision = "auto"
    """Compute precision; auto: not yet chosen."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Trained weights as `weight.NAME`, optimizer state as `optimizer.INDEX.PARAMETER.KEY`."""


def snapshot(weights: Weights, optimizers: Sequence[torch.optim.Optimizer], counts: State) -> State:
    """Combine the counts with the tensors in use, not copies of them."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, values, key in _optimizer_tensors(optimizers):
        tensors[name] = torch.as_tensor(values[key])
    return replace(counts, tensors=tensors)


def restore(weights: Weights, optimizers: Sequence[torch.optim.Optimizer], state: State) -> State:
    """Copy a state's tensors into weights and optimizers, and return its counts without the tensors.

    Raises:
        CheckpointError: the tensors are not those of this training; nothing was copied.
    """
    counts = replace(state, tensors={})
    if not state.tensors:
        return counts
    _check(weights, optimizers, state.tensors)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state.tensors[f"weight.{name}"])
    for name, value in state.tensors.items():
        if name.startswith("optimizer."):
            parameter, values, key = _locate(optimizers, name)
            values[key] = value.clone().to(parameter.device)  # fused AdamW's step as well
    return counts


def _check(weights: Weights, optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    shapes = {f"weight.{name}": weight.shape for name, weight in weights.items()}
    found = {name: tensor.shape for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    keys: dict[str, set[str]] = {}  # of each parameter's optimizer state
    for name in tensors.keys() - found.keys():
        try:
            parameter, _, key = _locate(optimizers, name)
        except (ValueError, IndexError):
            wrong.append(name)
            continue
        keys.setdefault(name.removesuffix(key), set()).add(key)
        if tensors[name].ndim and tensors[name].shape != parameter.shape:
            wrong.append(name)
    for name, own_keys in keys.items():
        same_optimizer = [other for prefix, other in keys.items() if prefix.split(".")[1] == name.split(".")[1]]
        wrong += [f"{name}{key}" for key in set().union(*same_optimizer) - own_keys]
    if wrong:
        raise CheckpointError(f"checkpoint: {len(wrong)} tensors do not fit this model, the first is {min(wrong)}")


def _locate(optimizers: Sequence[torch.optim.Optimizer], name: str) -> tuple[Tensor, dict[str, Any], str]:
    """Resolve `optimizer.INDEX.PARAMETER.KEY` -> the parameter, its values in the optimizer, the key."""
    _, index, number, key = name.split(".", 3)
    optimizer = optimizers[int(index)]
    parameter = [parameter for group in optimizer.param_groups for parameter in group["params"]][int(number)]
    return parameter, optimizer.state[parameter], key


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[str, dict[str, Any], str]]:
    for index, optimizer in enumerate(optimizers):
        numbers = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
        for parameter, values in optimizer.state.items():
            for key in values:
                yield f"optimizer.{index}.{numbers[id(parameter)]}.{key}", values, key
