"""Interpolate the weights of a base and a run: a dial between the base's perplexity and the run's diversity.

(1 - alpha) * base + alpha * run, weight by weight (WiSE-FT; arXiv 2504.10478 restores diversity with it).
Does not know what a token means.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from hypergen.errors import InputError
from hypergen.modality import Module

Model = TypeVar("Model", bound=Module)


def interpolated(base: Module, trained: Model, alpha: float) -> Model:
    """Copy `trained` with the weights (1 - alpha) * base + alpha * trained in fp32; buffers are those of `trained`.

    0 and 1 give the weights of the two bit for bit, and so does any alpha where the two agree (frozen blocks).

    Args:
        base: on any device; left as it is.
        trained: on the device of the result; left as it is.
        alpha: from 0 to 1.

    Raises:
        InputError: as `require_alike`.
    """
    require_alike(base, trained)
    others = dict(base.named_parameters())
    with torch.no_grad():
        weights = {
            id(own): nn.Parameter(torch.lerp(others[name].to(own.device).float(), own.float(), alpha), False)
            for name, own in trained.named_parameters()
        }
    return copy.deepcopy(trained, weights)  # which takes these in place of the parameters, tied ones once


def require_alike(base: Module, trained: Module) -> None:
    """Require that both models are in memory and have weights of the same names and shapes.

    Raises:
        InputError: they do not; it names the first weight that differs.
    """
    require_whole(base, "base")
    require_whole(trained, "run")
    of_base, of_run = _shapes(base), _shapes(trained)
    for name in of_base | of_run:
        shapes = [of.get(name, "not there") for of in (of_base, of_run)]
        if shapes[0] != shapes[1]:
            raise InputError(f"weight {name}: {shapes[0]} in the base, {shapes[1]} in the run; they must be equal")


def require_whole(model: Module, which: str) -> None:
    """Refuse a model whose weights are partly in files.

    Raises:
        InputError: it is one.
    """
    if any(weight.is_meta for weight in model.parameters()):
        raise InputError(f"interpolation: weights of the {which} are in files (offloaded); load it without that")


def _shapes(model: Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}
