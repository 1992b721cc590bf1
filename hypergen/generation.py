"""The one decoding loop and its strategies. The prefix is computed once; each step sees one token per row.

Greedy is its own branch, an argmax before any division by a temperature. Sampling draws from a CPU generator seeded by
(seed, row of the whole job), so a completion depends neither on the batch it sat in nor on the device.
Does not know: what a token means, where prompts come from, what becomes of the completions.

Shape letters: B batch, P prompt, S completion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hypergen.batches import generator
from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig, StrategyName
from hypergen.errors import InputError
from hypergen.progress import track


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What sampling keeps of a distribution, applied in this order; None or 1: not applied."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


STRATEGIES: dict[StrategyName, Filters | None] = {
    "greedy": None,
    "temperature": Filters(),
    "top-k": Filters(top_k=50),
    "top-p": Filters(temperature=0.7, top_k=50, top_p=0.9),  # the nucleus baseline of arXiv 2412.04318
    "min-p": Filters(min_p=0.1),  # arXiv 2407.01082
}


def filters(config: DecodingConfig) -> Filters | None:
    """The strategy's filters with the fields that the user set; None for greedy."""
    preset = STRATEGIES[config.strategy]
    if preset is None:
        return None
    chosen = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    return replace(preset, **{name: value for name, value in chosen.items() if value is not None})


def generate(
    model: Any,
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    config: DecodingConfig = DecodingConfig(),  # noqa: B008 (frozen)
    *,
    end_token: int | None = None,
    citations: CitationIndex | None = None,
    batch_size: int = 32,
    label: str = "generate",
    check_stop: Callable[[], None] = lambda: None,
) -> Tensor:
    """Continue each prompt by at most `max_new_tokens` ids.

    Args:
        prompts: (B, P) ids or 1-D tensors of any lengths >= 1, as `Modality.begin` gives them.
        end_token: with `config.stop_at_end`, a row is over after this id and filled up with it.
        citations: n-grams that must not be completed; prompt tokens count in the window.
        batch_size: rows decoded together; only rows of equal prompt length share a batch, so nothing is padded.

    Returns:
        (B, S) ids on the CPU, in the order of the prompts, S the longest completion (S = max_new_tokens unless every
        row ended earlier). `measures.trim` cuts at the end token.

    Raises:
        InputError: a prompt is empty, prompt and completion together exceed the context, or citations are to be
            blocked and none are given.
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    _check_lengths(rows, max_new_tokens, model.context_length)
    if config.block_citations and citations is None:
        raise InputError(f"--block-citations {config.block_citations}: the training tokens are needed for this")
    filler = 0 if end_token is None else end_token
    completions = torch.full((len(rows), max_new_tokens), filler, dtype=torch.long)
    end = end_token if config.stop_at_end else None
    longest = 0
    was_training = model.training
    model.eval()
    with torch.inference_mode(), track(label, len(rows)) as advance:
        for batch in _batches(rows, batch_size):
            prompt = torch.stack([rows[index] for index in batch]).to(next(model.parameters()).device)
            choose = _Chooser(config, citations, batch)
            ids = _decode(model, prompt, max_new_tokens, choose, end, check_stop)
            completions[torch.tensor(batch), : ids.shape[1]] = ids
            longest = max(longest, ids.shape[1])
            advance(len(batch), tokens=ids.numel())
    model.train(was_training)
    return completions[:, :longest]


def _decode(
    model: Any, prompt: Tensor, max_new_tokens: int, choose: _Chooser, end: int | None, check_stop: Callable[[], None]
) -> Tensor:
    """One batch: (B, P) -> (B, S). Finished rows leave the batch once a quarter of it has finished."""
    completions = torch.full((len(prompt), max_new_tokens), 0 if end is None else end, dtype=torch.long)
    alive = torch.arange(len(prompt), device=prompt.device)  # rows still in the batch
    finished = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)  # among those
    context = torch.cat([prompt, prompt.new_zeros(len(prompt), max_new_tokens)], 1)
    length = prompt.shape[1]
    logits, state = model.start(prompt, max_new_tokens)
    for position in range(max_new_tokens):
        check_stop()
        token = choose(logits, context[:, :length])
        if end is not None:
            token = torch.where(finished, end, token)
            finished |= token == end
        completions[alive.cpu(), position] = token.cpu()
        if position + 1 == max_new_tokens or (end is not None and bool(finished.all())):
            return completions[:, : position + 1]
        context[:, length] = token
        length += 1
        if end is not None and 4 * int(finished.sum()) >= len(finished):
            kept = (~finished).nonzero().squeeze(1)
            state, context, alive = model.select(state, kept), context[kept], alive[kept]
            token, finished = token[kept], finished[kept]
            choose.keep(kept)
        logits, state = model.step(token, state)
    return completions


class _Chooser:
    """logits (B, V) and the ids so far (B, L) -> the next id of each row (B,)."""

    def __init__(self, config: DecodingConfig, citations: CitationIndex | None, rows: list[int]):
        self.filters, self.penalty, self.citations = filters(config), config.repetition_penalty, citations
        self.generators = [generator(config.seed, "row", row) for row in rows]

    def keep(self, rows: Tensor) -> None:
        self.generators = [self.generators[row] for row in rows.tolist()]

    def __call__(self, logits: Tensor, context: Tensor) -> Tensor:
        if self.penalty != 1.0:
            logits = penalize_repetition(logits, context, self.penalty)
        if self.filters is None:
            if self.citations is not None:
                return self.citations.argmax_allowed(logits, context)
            return logits.argmax(-1)
        if self.citations is not None:
            logits = self.citations.block(logits, context)
        return self._sample(apply_filters(logits.float(), self.filters))

    def _sample(self, logits: Tensor) -> Tensor:
        """Inverse of the cumulative distribution at one uniform number per row."""
        uniform = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in self.generators])
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


def _batches(rows: list[Tensor], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of equal prompt length, shortest first."""
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    groups = [by_length[length] for length in sorted(by_length)]
    return [group[first : first + batch_size] for group in groups for first in range(0, len(group), batch_size)]


def _check_lengths(rows: list[Tensor], max_new_tokens: int, context_length: int) -> None:
    if not rows:
        raise InputError("no prompts: at least one is needed")
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}: must be 1 or more")
    for index, row in enumerate(rows, 1):
        if len(row) == 0:
            raise InputError(f"prompt {index}: has no tokens")
        if len(row) + max_new_tokens > context_length:
            lengths = f"{len(row)} tokens and {max_new_tokens} new ones"
            raise InputError(f"prompt {index}: {lengths} exceed the context of {context_length}")
