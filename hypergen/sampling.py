"""Drawing ids from logits: the filters of sampling, the repetition penalty, and the draw itself.

Does not know: models, prompts, which strategy asked.

Shape letters: B batch, L context, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergen import native

FEW = 64  # most likely tokens looked at first: a nucleus is rarely wider
BLOCK = 64  # tokens whose maximum is taken first where a whole vocabulary is searched


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What sampling keeps of a distribution, applied in this order; None or 1: not applied."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    @property
    def keep_everything(self) -> bool:
        """Whether no token is removed."""
        return not (self.top_k or self.min_p or (self.top_p or 1.0) < 1)


def draw(logits: Tensor, kept: Filters, generators: Sequence[torch.Generator], in_native: bool = False) -> Tensor:
    """(B, V) logits -> (B,) ids of what the filters leave, one number of a row's generator each.

    Args:
        in_native: in native code where that can be had; the same ids but for rounding.
    """
    uniform = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    if in_native and not kept.keep_everything and (ids := native.draw(logits, kept, uniform)) is not None:
        return ids
    left, ids = candidates(logits.float(), kept)
    return ids.gather(1, sample(left, uniform)[:, None]).squeeze(1)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """(B, V) logits -> (B,) ids: inverse of the cumulative distribution at these numbers (B,) from 0 to 1."""
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


def candidates(logits: Tensor, kept: Filters) -> tuple[Tensor, Tensor]:
    """(B, V) logits -> what the filters leave: logits (B, K), -inf where they remove a token, and its ids (B, K).

    The nucleus is the smallest set of most likely tokens whose probability reaches p (arXiv 1904.09751). At least one
    token stays. Nothing is sorted but the K most likely.
    """
    top_p = kept.top_p or 1.0
    if kept.keep_everything:
        return _cooled(logits, logits, kept), torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
    values, ids, log_total = _most_likely(logits, kept)
    beyond = torch.zeros_like(values, dtype=torch.bool)
    if top_p < 1:
        probabilities = (values - log_total).exp()
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
    if kept.min_p:
        beyond |= values < math.log(kept.min_p)
    return values.masked_fill(beyond, -torch.inf), ids


def argmax(logits: Tensor) -> Tensor:
    """(B, V) -> (B,), the first of the largest. `Tensor.argmax` takes ten times as long on a CPU (measured)."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.detach().numpy().argmax(-1))
    rows, num_blocks = logits.shape[0], logits.shape[1] // BLOCK
    if num_blocks < 2 or logits.shape[1] % BLOCK:
        return logits.argmax(-1)
    blocks = logits.view(rows, num_blocks, BLOCK)
    block = blocks.amax(-1).argmax(-1)
    return block * BLOCK + blocks[torch.arange(rows, device=logits.device), block].argmax(-1)


def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`logits.topk(k)` of (B, V); where V is large, among the k blocks whose maxima are the largest."""
    num_blocks = logits.shape[1] // BLOCK
    if num_blocks < 4 * k:
        highest = logits.topk(min(k, logits.shape[1]))
        return highest.values, highest.indices
    whole = num_blocks * BLOCK
    blocks = logits[:, :whole].unflatten(1, (num_blocks, BLOCK)).amax(-1).topk(k).indices
    ids = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(whole, logits.shape[1], device=logits.device).expand(len(ids), -1)
    ids = torch.cat([ids, rest], 1)
    values, places = logits.gather(1, ids).topk(k)
    return values, ids.gather(1, places)


def _cooled(values: Tensor, logits: Tensor, kept: Filters) -> Tensor:
    """(B, K) of the logits (B, V) less the largest of these, over the temperature: in this order nothing overflows."""
    return (values - logits.amax(-1, keepdim=True)) / max(kept.temperature, 1e-30)


def _most_likely(logits: Tensor, kept: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """(B, V) -> the K highest, cooled and in order, their ids, and the log of the mass that a nucleus is relative to
    (B, 1): that of the k most likely tokens, or of all. K is k, or enough for the other filters."""
    if kept.top_k:
        values, ids = topk(logits, kept.top_k)
        values = _cooled(values, values, kept)
        return values, ids, values.logsumexp(-1, keepdim=True)
    width, log_total = FEW, None
    while True:
        highest, ids = topk(logits, width)
        values = _cooled(highest, highest, kept)
        log_total = _log_total(logits, highest[:, :1], kept) if log_total is None else log_total
        if width >= logits.shape[-1] or _is_enough(values, log_total, kept):
            return values, ids, log_total
        width *= 16


def _log_total(logits: Tensor, highest: Tensor, kept: Filters) -> Tensor:
    """Logits (B, V) and the highest of each row (B, 1) -> (B, 1), the log of the sum of exp of the cooled logits."""
    cooled = logits - highest
    if kept.temperature != 1.0:
        cooled /= max(kept.temperature, 1e-30)
    return cooled.exp_().sum(-1, keepdim=True).log_()


def _is_enough(values: Tensor, log_total: Tensor, kept: Filters) -> bool:
    """Whether in every row the filters end among these highest logits (B, K)."""
    mass = (values - log_total).exp().sum(-1)
    reached = mass >= (kept.top_p or math.inf)
    if kept.min_p:
        reached |= values[:, -1] < math.log(kept.min_p)
    return bool(reached.all())
