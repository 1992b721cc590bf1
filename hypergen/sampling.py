"""Drawing ids from logits: the filters of sampling, the repetition penalty, and the draw itself.

Does not know: models, prompts, which strategy asked.

Shape letters: B batch, L context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What sampling keeps of a distribution, applied in this order; None or 1: not applied."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


def sample(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, V) logits -> (B,) ids: inverse of the cumulative distribution at one uniform number per row."""
    uniform = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    probabilities = logits.softmax(-1)
    if probabilities.device.type == "mps":  # which has no float64
        probabilities = probabilities.cpu()
    cumulative = probabilities.double().cumsum(-1)
    aim = uniform.to(cumulative.device)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, aim, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return token.to(logits.device)


def penalize_repetition(logits: Tensor, context: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of ids in `context` (B, L) by `penalty` (arXiv 1909.05858)."""
    padded = torch.nn.functional.pad(logits, (0, 1))  # a start token has no logit: it lands in the extra column
    context = context.clamp(max=logits.shape[-1])
    seen = padded.gather(1, context)
    return padded.scatter(1, context, torch.where(seen > 0, seen / penalty, seen * penalty))[:, :-1]


def apply_filters(logits: Tensor, kept: Filters) -> Tensor:
    """(B, V) logits -> logits of what is left, -inf where the filters remove a token. At least one token stays."""
    logits = (logits - logits.amax(-1, keepdim=True)) / max(kept.temperature, 1e-30)  # in this form it cannot overflow
    if kept.top_k is not None and kept.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(kept.top_k).values[:, -1:], -torch.inf)
    if kept.top_p is not None and kept.top_p < 1:
        logits = _nucleus(logits, kept.top_p)
    if kept.min_p:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < kept.min_p * probabilities.amax(-1, keepdim=True), -torch.inf)
    return logits


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (arXiv 1904.09751)."""
    ordered, order = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    beyond = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(beyond.scatter(1, order, beyond), -torch.inf)
