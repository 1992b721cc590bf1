"""Backpropagate the next-token loss through a chunked head, so that memory does not grow with the vocabulary.

The token accuracy is counted on the same logits, so that it costs no forward pass of its own. Targets that the loss
mask leaves out are IGNORED, in both.

With 262,144 ids, the fp32 logits of 16 sequences of 256 tokens alone would take 4 GiB.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.config import Precision
from hypergen.kernels.topk import argmax
from hypergen.modality import Predictor
from hypergen.training.precision import autocast

CHUNK = 2048  # positions whose logits exist at one time, at most
IGNORED = -100  # in place of a target that does not count, as in torch and transformers
MIN_CHUNK = 64  # a smaller product is not worth its call
CHUNK_BYTES = 4 * 2**20  # of those logits on a CPU: what its caches hold (measured: a third of the time of 32 MiB)


class BatchLoss(NamedTuple):
    """Hold what the predictions of some sequences of a batch were worth; both numbers add up over its parts."""

    loss: float
    """Their share of the batch's mean cross-entropy, nats per token."""
    num_correct: int
    """Targets that their prediction had as the most likely token."""


def backward(
    model: Predictor, hidden: Tensor, targets: Tensor, precision: Precision = "fp32", *, share: float = 1.0
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
    """
    positions, labels = hidden.detach().flatten(0, 1), targets.flatten()
    chunk_size = _chunk_size(model.num_tokens, hidden.device)
    gradients, total, num_correct = [], torch.zeros((), device=hidden.device), torch.zeros((), device=hidden.device)
    for chunk, chunk_labels in zip(positions.split(chunk_size), labels.split(chunk_size), strict=True):
        chunk.requires_grad_()
        with autocast(precision, hidden.device):
            logits = model.head(chunk)
        logits = logits.float()
        num_correct += (argmax(logits.detach()) == chunk_labels).sum()
        loss = F.cross_entropy(logits, chunk_labels, ignore_index=IGNORED, reduction="sum") / labels.numel() * share
        loss.backward()
        gradients.append(chunk.grad)
        total += loss.detach()
    hidden.backward(torch.cat(gradients).view_as(hidden))
    loss_sum, count = torch.stack([total, num_correct]).tolist()  # one wait for the device; fp32 counts to 2^24 exactly
    return BatchLoss(loss_sum, int(count))


def _chunk_size(num_tokens: int, device: torch.device) -> int:
    """Choose for how many positions logits are made together: fewer on a CPU, where they should stay in its caches."""
    return CHUNK if device.type != "cpu" else min(CHUNK, max(MIN_CHUNK, CHUNK_BYTES // (4 * num_tokens)))
