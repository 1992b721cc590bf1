"""Backpropagate the next-token loss through a chunked head, so that memory does not grow with the vocabulary.

The token accuracy is counted on the same logits, so that it costs no forward pass of its own. Targets that the loss
mask leaves out are IGNORED, in both.

With 262,144 ids, the fp32 logits of 16 sequences of 256 tokens alone would take 4 GiB.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.config import Precision
from hypergen.kernels.native_loss import CrossEntropy, cross_entropy_native
from hypergen.kernels.topk import argmax
from hypergen.modality import Predictor
from hypergen.training.precision import FrozenCasts, autocast

CHUNK = 2048  # positions whose logits exist at one time, at most
IGNORED = -100  # in place of a target that does not count, as in torch and transformers
MIN_CHUNK = {"fp32": 64, "bf16": 128}  # a smaller product is not worth its call, nor its reading of the weights
CHUNK_BYTES = {"fp32": 4 * 2**20, "bf16": 24 * 2**20}  # of those logits on a CPU (measured)


class BatchLoss(NamedTuple):
    """Hold what the predictions of some sequences of a batch were worth; both numbers add up over its parts."""

    loss: float
    """Their share of the batch's mean cross-entropy, nats per token."""
    num_correct: int
    """Targets that their prediction had as the most likely token."""


def backward(
    model: Predictor,
    hidden: Tensor,
    targets: Tensor,
    precision: Precision = "fp32",
    *,
    share: float = 1.0,
    casts: FrozenCasts | None = None,
) -> BatchLoss:
    """Backpropagate a share of the mean cross-entropy of hidden states, and count the predictions that are right.

    The head runs on a chunk of positions at a time and each chunk is backpropagated to `hidden` at once, so that
    logits of size (B, T, V) never exist and nothing is computed twice.

    Args:
        model: whose head makes the logits.
        hidden: (B, T, D), with the graph that made them.
        targets: (B, T) ids, the token after each position, or IGNORED.
        precision: of the head; the loss itself is fp32.
        share: these B * T positions over the targets that count in the whole batch; without a mask the part of the
            batch that these sequences are.
        casts: of the head's weights, kept from call to call of a training.
    """
    positions, labels = hidden.detach().flatten(0, 1), targets.flatten()
    chunk_size = _chunk_size(model.num_tokens, hidden.device, precision)
    gradients, total, num_correct = [], torch.zeros((), device=hidden.device), torch.zeros((), device=hidden.device)
    for chunk, chunk_labels in zip(positions.split(chunk_size), labels.split(chunk_size), strict=True):
        chunk.requires_grad_()
        with autocast(precision, hidden.device), casts or nullcontext():
            logits = model.head(chunk)
        found = _cross_entropy(logits.detach(), chunk_labels, share / labels.numel())
        logits.backward(found.gradient)
        gradients.append(chunk.grad)
        total += found.losses.sum()
        num_correct += (found.predicted == chunk_labels).sum()
    hidden.backward(torch.cat(gradients).view_as(hidden))
    loss, count = torch.stack([total, num_correct]).tolist()  # one wait for the device; fp32 counts to 2^24 exactly
    return BatchLoss(loss * share / labels.numel(), int(count))


def _cross_entropy(logits: Tensor, labels: Tensor, scale: float) -> CrossEntropy:
    """Compute losses (B,), predictions (B,) and the gradient (B, V) of the scaled sum: natively, or by torch."""
    if (native := cross_entropy_native(logits, labels, scale)) is not None:
        return native
    wide = logits.float().requires_grad_()
    losses = F.cross_entropy(wide, labels, ignore_index=IGNORED, reduction="none")
    losses.backward(torch.full_like(losses, scale))
    assert wide.grad is not None
    return CrossEntropy(losses.detach(), wide.grad.to(logits.dtype), argmax(wide.detach()))


def _chunk_size(num_tokens: int, device: torch.device, precision: Precision) -> int:
    """Choose for how many positions logits are made together: fewer on a CPU, where they should stay in its caches."""
    if device.type != "cpu":
        return CHUNK
    least, logit_bytes = MIN_CHUNK[precision], CHUNK_BYTES[precision]
    return min(CHUNK, max(least, logit_bytes // (num_tokens * (2 if precision == "bf16" else 4))))
