"""Sample token ids from logits: the filters, the repetition penalty, and the sampling itself.

Does not know what a token means.

Shape letters: B batch, L context, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hypergen.kernels.native_library import fallback_message, why_unavailable
from hypergen.kernels.native_sampling import LOWEST_TEMPERATURE, sample_tokens_native
from hypergen.kernels.topk import topk
from hypergen.runtime.console import warn_once

NUM_FIRST = 64  # most likely tokens looked at first: a nucleus is rarely wider
OFF = {"top_p": 1.0, "min_p": 0.0}  # values, besides None, at which a filter removes nothing
TORCH_ONLY: frozenset[str] = frozenset()  # filters that the native kernel lacks: such a draw is made by torch


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Hold the filters of a distribution, applied in this order; None or 1: not applied.

    A new field is applied in `candidates`, and in `kernels.native_sampling` unless it stands in TORCH_ONLY: both take
    the fields as keywords, so a field that is forgotten is a TypeError.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """The fields by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def keep_everything(self) -> bool:
        """Whether no token is removed."""
        removing = {name: value for name, value in self.keywords.items() if name != "temperature"}
        return all(value in (None, OFF.get(name)) for name, value in removing.items())

    @cached_property
    def native_keywords(self) -> dict[str, Any] | None:
        """What the native kernel is called with; None where a filter is on that it lacks."""
        if any(self.keywords[name] is not None for name in TORCH_ONLY & self.keywords.keys()):
            return None
        return {name: value for name, value in self.keywords.items() if name not in TORCH_ONLY}


def sample_tokens(
    logits: Tensor, filters: Filters, generators: Sequence[torch.Generator], *, native: bool = False
) -> Tensor:
    """Sample (B,) ids from filtered (B, V) logits, with one uniform number of each row's generator.

    Args:
        logits: of the next token.
        filters: applied to the logits first.
        generators: one a row, on the CPU.
        native: sample in native code where that can be had; the same ids but for rounding.
    """
    uniform = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    keywords = filters.native_keywords
    if native and keywords is not None and not filters.keep_everything and logits.device.type == "cpu":
        ids = sample_tokens_native(logits, uniform, **keywords)
        if ids is not None:
            return ids
        if (reason := why_unavailable()) is not None:
            warn_once(fallback_message(reason))
    left, ids = candidates(logits.float(), **filters.keywords)
    return ids.gather(1, sample(left, uniform)[:, None]).squeeze(1)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution at numbers from 0 to 1: (B, V) logits and (B,) -> (B,) ids."""
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


def candidates(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply filters: (B, V) logits -> logits (B, K), -inf where they remove a token, and its ids (B, K).

    The nucleus is the smallest set of most likely tokens whose probability reaches p (arXiv 1904.09751). At least one
    token stays. Nothing is sorted but the K most likely. The filters are keywords, so that one which is not applied
    here is a TypeError and not a wrong answer.
    """
    filters = Filters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if filters.keep_everything:
        ids = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
        return _apply_temperature(logits, logits, filters), ids
    top_p = filters.top_p or 1.0
    values, ids, log_total = _most_likely(logits, filters)
    removed = torch.zeros_like(values, dtype=torch.bool)
    if top_p < 1:
        probabilities = (values - log_total).exp()
        removed = probabilities.cumsum(-1) - probabilities >= top_p
    if filters.min_p:
        removed |= values < math.log(filters.min_p)
    return values.masked_fill(removed, -torch.inf), ids


def _apply_temperature(values: Tensor, logits: Tensor, filters: Filters) -> Tensor:
    """Subtract the largest of the logits (B, V) from values (B, K), then divide: in this order nothing overflows."""
    return (values - logits.amax(-1, keepdim=True)) / max(filters.temperature, LOWEST_TEMPERATURE)


def _most_likely(logits: Tensor, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """Find the K highest of (B, V), in order and over the temperature, their ids, and the log of a total mass (B, 1).

    The mass is the one that a nucleus is relative to: that of the k most likely tokens, or of all. K is k, or enough
    for the other filters.
    """
    if filters.top_k:
        values, ids = topk(logits, filters.top_k)
        values = _apply_temperature(values, values, filters)
        return values, ids, values.logsumexp(-1, keepdim=True)
    width, log_total = NUM_FIRST, None
    while True:
        highest, ids = topk(logits, width)
        values = _apply_temperature(highest, highest, filters)
        log_total = _log_total(logits, highest[:, :1], filters) if log_total is None else log_total
        if width >= logits.shape[-1] or _is_enough(values, log_total, filters):
            return values, ids, log_total
        width *= 16


def _log_total(logits: Tensor, highest: Tensor, filters: Filters) -> Tensor:
    """Compute the log of the sum of exp over the temperature: logits (B, V), highest of each row (B, 1) -> (B, 1)."""
    shifted = logits - highest
    if filters.temperature != 1.0:
        shifted /= max(filters.temperature, LOWEST_TEMPERATURE)
    return shifted.exp_().sum(-1, keepdim=True).log_()


def _is_enough(values: Tensor, log_total: Tensor, filters: Filters) -> bool:
    """Tell whether in every row the filters end among these highest logits (B, K)."""
    mass = (values - log_total).exp().sum(-1)
    reached = mass >= (filters.top_p or math.inf)
    if filters.min_p:
        reached |= values[:, -1] < math.log(filters.min_p)
    return bool(reached.all())
