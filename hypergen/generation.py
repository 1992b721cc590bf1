"""The one decoding loop. The prefix is computed once; each step sees one token per row.

Does not know: how the next id is chosen (`strategies`), what a token means, what becomes of the completions.

Shape letters: B batch, P prompt, S completion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.beam import decode_beams
from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.kept_completions import Keep, decode_all
from hypergen.precision import in_bf16
from hypergen.progress import track
from hypergen.strategies import Chooser

UNPADDED = ("beam", "fsd")  # strategies that count tokens of the context or repeat rows: no padding among them
STEPS_BETWEEN_CHECKS = (
    4  # whether rows have finished is read that often: on a GPU, reading waits for all that is queued
)


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
    keep: Keep = decode_all,
) -> Tensor:
    """Continue each prompt by at most `max_new_tokens` ids.

    Args:
        prompts: (B, P) ids or 1-D tensors of any lengths >= 1, as `Modality.begin` gives them.
        end_token: with `config.stop_at_end`, a row is over after this id and filled up with it.
        citations: n-grams that must not be completed; prompt tokens count in the window.
        batch_size: rows decoded together, those of like length; of equal length where the model takes no padding.
        keep: given a batch's rows and how to decode them, its (B, S) ids: those of an earlier job, or new ones.

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
    device = next(model.parameters()).device
    decoder = in_bf16(model) if config.precision == "bf16" else model
    with torch.inference_mode(), track(label, len(rows)) as advance:
        decoder.use_native(config.native)
        for batch in _batches(rows, batch_size, model.takes_padding and config.strategy not in UNPADDED):
            choose = Chooser(config, citations, batch)
            prompts = [rows[index].to(device) for index in batch]
            if config.strategy == "beam":
                decode = partial(decode_beams, decoder, torch.stack(prompts))
            else:
                decode = partial(_decode, decoder, prompts)
            ids = keep(batch, partial(decode, max_new_tokens, choose, end, check_stop))
            completions[torch.tensor(batch), : ids.shape[1]] = ids.cpu()
            longest = max(longest, ids.shape[1])
            advance(len(batch), tokens=ids.numel())
    model.train(was_training)
    return completions[:, :longest]


def _decode(
    model: Any,
    prompts: list[Tensor],
    max_new_tokens: int,
    choose: Chooser,
    end: int | None,
    check_stop: Callable[[], None],
) -> Tensor:
    """One batch: B prompts (P,) -> (B, S). Finished rows leave the batch once a quarter of it has finished."""
    logits, state, context = _start(model, prompts, max_new_tokens)
    batch, length = len(prompts), context.shape[1] - max_new_tokens
    completions = context.new_full((batch, max_new_tokens), 0 if end is None else end)
    alive = torch.arange(batch, device=context.device)  # rows still in the batch
    finished = torch.zeros(batch, dtype=torch.bool, device=context.device)  # among those
    for position in range(max_new_tokens):
        check_stop()
        token = choose(logits, context[:, :length])
        if end is not None:
            token = torch.where(finished, end, token)
            finished |= token == end
        completions[alive, position] = token
        if position + 1 == max_new_tokens:
            break
        context[:, length] = token
        length += 1
        if end is not None and position % STEPS_BETWEEN_CHECKS == 0:
            num_finished = int(finished.sum())
            if num_finished == len(alive):
                break
            if 4 * num_finished >= len(alive):
                kept = (~finished).nonzero().squeeze(1)
                state, context, alive = model.select(state, kept), context[kept], alive[kept]
                token, finished = token[kept], finished[kept]
                choose.keep(kept)
        logits, state = model.step(token, state)
    return completions if end is None else completions[:, : _longest(completions, end)]


def _longest(completions: Tensor, end: int) -> int:
    """Up to the last row's first end token, that one included."""
    return min(completions.shape[1], 1 + int((completions != end).cummin(1).values.sum(1).max()))


def _start(model: Any, prompts: list[Tensor], max_new_tokens: int) -> tuple[Tensor, Any, Tensor]:
    """B prompts (P,) -> logits (B, V), state, and ids (B, longest P + max_new_tokens) with room for the completions.

    Equal prompts are computed once. Shorter ones are padded on the left; as context, padding is an id that no logit
    has, so that nothing repeats or quotes it.
    """
    longest = max(len(prompt) for prompt in prompts)
    pads = torch.tensor([longest - len(prompt) for prompt in prompts], device=prompts[0].device)
    padded = torch.stack([F.pad(prompt, (longest - len(prompt), 0), value=model.num_tokens) for prompt in prompts])
    context = F.pad(padded, (0, max_new_tokens))
    distinct, row_of = padded.unique(dim=0, return_inverse=True)
    if len(distinct) == len(padded):
        distinct, row_of = padded, None
    else:
        pads = torch.zeros_like(pads[: len(distinct)]).scatter_(0, row_of, pads)
    ids = distinct.where(distinct < model.num_tokens, 0)
    logits, state = model.start(ids, max_new_tokens, pads) if bool(pads.any()) else model.start(ids, max_new_tokens)
    if row_of is not None:
        logits, state = logits[row_of], model.select(state, row_of)
    return logits, state, context


def _batches(rows: list[Tensor], batch_size: int, mixed: bool) -> list[list[int]]:
    """Row numbers in batches, shortest prompts first; one length a batch unless `mixed`."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    groups = [order] if mixed else [list(group) for _, group in groupby(order, key=lambda index: len(rows[index]))]
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
