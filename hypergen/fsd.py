"""Frustratingly Simple Decoding: greedy decoding against an n-gram model of the context itself (arXiv 2305.12675).

Of the k most likely tokens the one with the highest (1 - alpha) p(token) - alpha penalty(token) is taken, where the
penalty is the token's smoothed probability under the n-grams of prompt and completion so far. Needs only logits and
context, so it fits the one decoding loop and any vocabulary. Of the two variants of the paper this is the discrete one;
smoothing and defaults are those of the authors' code for English. It has no list of words that go unpenalised: here a
token has no meaning.
Does not know: models, prompts, what a token means.

Shape letters: B batch, L context, V vocabulary, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fsd:
    """The numbers of the method."""

    alpha: float = 0.65
    """Weight of the penalty, 0 (greedy) to 1."""
    top_k: int = 3
    """Candidates."""
    order: int = 3
    """Longest n-gram."""
    smoothing: float = 0.9
    """Share of the weight that an order takes from what the longer ones leave."""


def choose(logits: Tensor, context: Tensor, numbers: Fsd) -> Tensor:
    """(B, V) logits and (B, L) ids so far -> (B,) next ids. A token of logit -inf is never taken."""
    kept, candidates = logits.float().topk(min(numbers.top_k, logits.shape[1]))
    probabilities = kept.sub(logits.float().logsumexp(1, keepdim=True)).exp()
    scores = (1 - numbers.alpha) * probabilities - numbers.alpha * penalty(context, candidates, numbers)
    best = scores.masked_fill(kept == -torch.inf, -torch.inf).argmax(1, keepdim=True)
    return candidates.gather(1, best).squeeze(1)


def penalty(context: Tensor, candidates: Tensor, numbers: Fsd) -> Tensor:
    """(B, L) ids so far and (B, K) candidates -> (B, K), how strongly the context's n-grams predict each, 0 to 1.

    From the longest order down, a candidate that followed the last tokens before takes `smoothing` of its remaining
    weight times count / (total + 1); the single tokens take all that is left times count / total.
    """
    remaining = torch.ones(candidates.shape, device=context.device)
    score = torch.zeros_like(remaining)
    for known in reversed(range(min(numbers.order, context.shape[1]))):  # tokens that the next one depends on
        followers, is_after = context[:, known:], torch.ones_like(context[:, known:], dtype=torch.bool)
        if known:
            before = context[:, :-1].unfold(1, known, 1)  # (B, L - known, known)
            is_after = (before == context[:, None, -known:]).all(-1)
        counts = (is_after[..., None] & (followers[..., None] == candidates[:, None])).sum(1)
        total = is_after.sum(1, keepdim=True)
        taken = remaining * (numbers.smoothing if known else 1.0) * (counts > 0)
        score += taken * counts / (total + bool(known)).clamp(min=1)
        remaining = remaining - numbers.smoothing * remaining * (counts > 0)
    return score
