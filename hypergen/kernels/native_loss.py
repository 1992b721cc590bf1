"""Compute cross-entropy with its gradient, or with measures of sharpness, in one native call that reads from cache.

torch takes eight operations over (B, V) numbers, each from memory into fresh memory: with 262,144 ids that is as long
as the products of the head themselves (measured: 1.2 s against 1.0 for 508 positions, here 0.1).

Shape letters: B positions, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hypergen.kernels.native_library import load_native_library

TYPES = (torch.float32, torch.bfloat16)
TOP = 5  # most likely tokens whose probability is measured; as in native.cpp


class CrossEntropy(NamedTuple):
    """Hold the losses of some positions and what follows from their logits."""

    losses: Tensor
    """(B,), nats, fp32; 0 where the label is ignored."""
    gradient: Tensor
    """(B, V), of the sum of the losses times the scale, in the type of the logits."""
    predicted: Tensor
    """(B,) ids: the first of the largest logits."""


class Sharpness(NamedTuple):
    """Hold what some predictions are like, in fp32."""

    losses: Tensor
    """(B,), nats."""
    entropies: Tensor
    """(B,), nats."""
    top: Tensor
    """(B, TOP): the probability of the 1, 2, ... TOP most likely tokens together."""


def cross_entropy_native(logits: Tensor, labels: Tensor, scale: float) -> CrossEntropy | None:
    """Compute the cross-entropy of logits (B, V) with labels (B,) ids, of which those below 0 are ignored.

    Equal to `F.cross_entropy` on fp32 logits and to its gradient, but for rounding; logits stay as they are.

    Returns:
        None where there is no native code for these logits.

    Raises:
        IndexError: a label is not in the vocabulary.
    """
    if logits.device.type != "cpu" or logits.dtype not in TYPES or (library := load_native_library()) is None:
        return None
    rows, num_tokens = logits.shape
    logits, labels = logits.detach().contiguous(), labels.contiguous()
    found = CrossEntropy(torch.empty(rows), torch.empty_like(logits), torch.empty(rows, dtype=torch.long))
    is_outside = library.cross_entropy(
        logits.data_ptr(), logits.dtype == torch.bfloat16, labels.data_ptr(), rows, num_tokens, scale,
        found.gradient.data_ptr(), found.losses.data_ptr(), found.predicted.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if is_outside:
        raise _outside(labels, num_tokens)
    return found


def sharpness_native(logits: Tensor, labels: Tensor) -> Sharpness | None:
    """Measure the predictions in logits (B, V) where labels (B,) follow: equal to torch's numbers but for rounding.

    Returns:
        None where there is no native code for these logits.

    Raises:
        IndexError: a label is not in the vocabulary.
    """
    if logits.device.type != "cpu" or logits.dtype not in TYPES or (library := load_native_library()) is None:
        return None
    rows, num_tokens = logits.shape
    logits, labels = logits.detach().contiguous(), labels.contiguous()
    found = Sharpness(torch.empty(rows), torch.empty(rows), torch.empty(rows, TOP))
    is_outside = library.sharpness(
        logits.data_ptr(), logits.dtype == torch.bfloat16, labels.data_ptr(), rows, num_tokens,
        found.losses.data_ptr(), found.entropies.data_ptr(), found.top.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if is_outside:
        raise _outside(labels, num_tokens)
    return found


def _outside(labels: Tensor, num_tokens: int) -> IndexError:
    return IndexError(f"labels {labels.min().item()} to {labels.max().item()}: the vocabulary has {num_tokens} tokens")
