"""Choose which parameters train: one function says so, and everything that depends on the choice asks it.

The loop, the size of a checkpoint and the fingerprint of a resumed training would each be wrong in silence if they
disagreed. The effect of hyperfitting is found in the last layers (arXiv 2605.22579), so these can be trained alone.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from hypergen.errors import InputError
from hypergen.modality import TrainableModel
from hypergen.runtime.progress import track
from hypergen.training.state import BYTES_PER_WEIGHT

FROZEN, TRAINED = "frozen weights of SHA-256", "trained weights at the start of SHA-256"


def trained_parameters(model: TrainableModel, last_layers: int) -> dict[str, nn.Parameter]:
    """Select the parameters that train, by name; the model is left as it is.

    Args:
        model: in whose order the parameters are named.
        last_layers: 0: everything; K: the last K blocks and what follows them (final norm, untied head).

    Raises:
        InputError: K is larger than the number of blocks.
    """
    check_last_layers(model, last_layers)
    if last_layers == 0:
        return dict(model.named_parameters())
    modules = [*model.blocks[-last_layers:], *model.final_modules]
    trained = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in trained}


def check_last_layers(model: TrainableModel, last_layers: int) -> None:
    """Refuse to train more blocks than the model has.

    Raises:
        InputError: there are fewer than `last_layers`.
    """
    if last_layers > len(model.blocks):
        raise InputError(f"--last-layers {last_layers}: the model has {len(model.blocks)} blocks")


def mark_trained(model: TrainableModel, last_layers: int) -> dict[str, nn.Parameter]:
    """Let `trained_parameters` alone require gradients, make them fp32, and return them.

    In 16 bits, updates of a small learning rate are rounded away.

    Raises:
        InputError: there are fewer blocks than `last_layers`; nothing was changed.
    """
    trained = trained_parameters(model, last_layers)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
    return trained


def checkpoint_bytes(model: TrainableModel, last_layers: int) -> int:
    """Compute the size of a checkpoint on a disk."""
    return BYTES_PER_WEIGHT * sum(parameter.numel() for parameter in trained_parameters(model, last_layers).values())


def base_fingerprint(model: TrainableModel, last_layers: int, *, label: str = "") -> dict[str, str]:
    """Hash the weights of the base, before it is trained: those that do not train, and those that do.

    A checkpoint does not hold the former, and the comparison is with the base as a whole, so a resumed training must
    find the same. Weights that stay in files (`--offload`) are not read for this: of such a model the embedding speaks
    for the rest. `label`: of the progress; empty: none is shown.
    """
    trained = trained_parameters(model, last_layers)
    weights = {name: weight for name, weight in model.named_parameters() if not weight.is_meta}
    digests = {FROZEN: hashlib.sha256(), TRAINED: hashlib.sha256()} if last_layers else {TRAINED: hashlib.sha256()}
    with track(label, len(weights), transient=True) as advance:
        for name, weight in weights.items():
            digest = digests[TRAINED if name in trained else FROZEN]
            digest.update(name.encode())
            digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().data)
            advance()
    return {name: digest.hexdigest() for name, digest in digests.items()}
