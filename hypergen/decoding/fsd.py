"""Decode greedily against an n-gram model of the context: Frustratingly Simple Decoding (arXiv 2305.12675).

Of the k most likely tokens the one with the highest (1 - alpha) p(token) - alpha penalty(token) is taken, where the
penalty is the token's smoothed probability under the n-grams of prompt and completion so far. It needs only logits and
context, so it fits the one decoding loop and any vocabulary. Of the two variants of the paper this is the discrete one;
smoothing and defaults are those of the authors' code for English, without their list of words that go unpenalized: here
a token has no meaning.
Does not know what a token means.

Shape letters: B batch, L context, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergen.config import DecodingConfig


@dataclass(frozen=True, kw_only=True)
class FsdParameters:
    """Hold the numbers of the method."""

    alpha: float = 0.65
    """Weight of the penalty, 0 (greedy) to 1."""
    top_k: int = 3
    """Candidates."""
    order: int = 3
    """Longest n-gram."""
    smoothing: float = 0.9
    """Share of the weight that an order takes from what the longer ones leave."""


def new_rule(config: DecodingConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the rule with the numbers that the user set: logits (B, V) and ids so far (B, L) -> next ids (B,)."""
    chosen: dict[str, Any] = {"alpha": config.fsd_alpha, "top_k": config.top_k}
    parameters = FsdParameters(**{name: value for name, value in chosen.items() if value is not None})
    return lambda logits, context: choose(logits, context, parameters)


def choose(logits: Tensor, context: Tensor, parameters: FsdParameters) -> Tensor:
    """Choose the next ids: (B, V) logits and (B, L) ids so far -> (B,). A token of logit -inf is never taken."""
    highest, candidates = logits.float().topk(min(parameters.top_k, logits.shape[1]))
    probabilities = highest.sub(logits.float().logsumexp(1, keepdim=True)).exp()
    penalties = penalty(context, candidates, parameters)
    scores = (1 - parameters.alpha) * probabilities - parameters.alpha * penalties
    best = scores.masked_fill(highest == -torch.inf, -torch.inf).argmax(1, keepdim=True)
    return candidates.gather(1, best).squeeze(1)


def penalty(context: Tensor, candidates: Tensor, parameters: FsdParameters) -> Tensor:
    """Compute how strongly the context's n-grams predict candidates: (B, L) ids and (B, K) ids -> (B, K), 0 to 1.

    From the longest order down, a candidate that followed the last tokens before takes `smoothing` of its remaining
    weight times count / (total + 1); the single tokens take all that is left times count / total.
    """
    remaining = torch.ones(candidates.shape, device=context.device)
    score = torch.zeros_like(remaining)
    for known in reversed(range(min(parameters.order, context.shape[1]))):  # tokens that the next one depends on
        followers, is_after = context[:, known:], torch.ones_like(context[:, known:], dtype=torch.bool)
        if known:
            before = context[:, :-1].unfold(1, known, 1)  # (B, L - known, known)
            is_after = (before == context[:, None, -known:]).all(-1)
        counts = (is_after[..., None] & (followers[..., None] == candidates[:, None])).sum(1)
        total = is_after.sum(1, keepdim=True)
        taken = remaining * (parameters.smoothing if known else 1.0) * (counts > 0)
        score += taken * counts / (total + bool(known)).clamp(min=1)
        remaining = remaining - parameters.smoothing * remaining * (counts > 0)
    return score
