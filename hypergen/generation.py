"""The one decoding loop. The prefix is computed once; each step sees one token per row.

Does not know: how the next id is chosen (`strategies`), what a token means, what becomes of the completions.

Shape letters: B batch, P prompt, S completion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.progress import track
from hypergen.strategies import Chooser


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
            choose = Chooser(config, citations, batch)
            ids = _decode(model, prompt, max_new_tokens, choose, end, check_stop)
            completions[torch.tensor(batch), : ids.shape[1]] = ids
            longest = max(longest, ids.shape[1])
            advance(len(batch), tokens=ids.numel())
    model.train(was_training)
    return completions[:, :longest]


def _decode(
    model: Any, prompt: Tensor, max_new_tokens: int, choose: Chooser, end: int | None, check_stop: Callable[[], None]
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
