"""Decode token by token with a key-value cache: the prefix is computed once, and each step sees one token a row.

There is one loop for all models and strategies, so that a comparison of two rows compares nothing else.
How the next token is chosen is a matter of `strategies`. Does not know what a token means.

Shape letters: B batch, P prompt, S completion, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.config import DecodingConfig
from hypergen.decoding.completion_journal import BatchStore, no_store
from hypergen.decoding.end_tokens import is_end, longest
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.decoding.strategies import STRATEGIES, TokenSelector
from hypergen.errors import InputError
from hypergen.modality import Decoder, KvCache, Module
from hypergen.runtime.evaluation_mode import evaluating
from hypergen.runtime.progress import Advance, track

STEPS_BETWEEN_CHECKS = 4  # of finished rows: on a GPU, reading them waits for all that is queued

ModuleType = TypeVar("ModuleType", bound=Module)


def generate(
    model: Decoder,
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    config: DecodingConfig = DecodingConfig(),  # noqa: B008 (frozen)
    *,
    end_tokens: Sequence[int] = (),
    citations: CitationIndex | None = None,
    batch_size: int = 32,
    label: str = "generate",
    check_stop: Callable[[], None] = lambda: None,
    batch_store: BatchStore = no_store,
    on_tokens: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continue each prompt by at most `max_new_tokens` ids.

    Args:
        model: decodes; left in its mode.
        prompts: (B, P) ids or 1-D tensors of any lengths >= 1, as `Modality.add_start_tokens` gives them.
        max_new_tokens: the longest completion.
        config: the strategy and its numbers.
        end_tokens: with `config.stop_at_end`, a row is over after any of these ids and filled up with the first.
        citations: n-grams that must not be completed; prompt tokens count in the window.
        batch_size: rows decoded together, those of like length; of equal length where padding is not possible.
        label: of the progress.
        check_stop: called before each step; raises where decoding is to end.
        batch_store: given a batch's rows and how to decode them, its (B, S) ids: those of an earlier job, or new ones.
        on_tokens: is shown the completions of a batch so far (B, S) after each token; a search shows none.

    Returns:
        (B, S) ids on the CPU, in the order of the prompts, S the longest completion (S = max_new_tokens unless every
        row ended earlier). `end_tokens.trim` cuts at the end token.

    Raises:
        InputError: a prompt is empty, prompt and completion together exceed the context, or citations are to be
            blocked and none are given.
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    _check_lengths(rows, max_new_tokens, model.context_length)
    if config.block_citations and citations is None:
        raise InputError(f"--block-citations {config.block_citations}: the training tokens are needed for this")
    filler = end_tokens[0] if end_tokens else 0
    completions = torch.full((len(rows), max_new_tokens), filler, dtype=torch.long)
    ends = tuple(end_tokens) if config.stop_at_end else ()
    length = 0
    with evaluating(model):
        decoder = bf16_copy(model) if config.precision == "bf16" else model
        device = next(model.parameters()).device
        with torch.inference_mode(), track(label, len(rows)) as advance:
            # 1. Sort the rows into batches of like length.
            mixes_lengths = model.supports_left_padding and STRATEGIES[config.strategy].allows_padding
            for batch in _batches(rows, batch_size, mixes_lengths):
                # 2. Decode a batch, unless an earlier job has.
                prompts, selector = [rows[index].to(device) for index in batch], TokenSelector(config, citations, batch)
                steps = _StepProgress(advance, len(batch), max_new_tokens, check_stop)
                decode = partial(
                    _decode_batch, decoder, prompts, max_new_tokens, selector, config=config, on_tokens=on_tokens
                )
                ids = batch_store(batch, partial(decode, end_tokens=ends, check_stop=steps.before_step))
                # 3. Put the completions where their prompts were.
                completions[torch.tensor(batch), : ids.shape[1]] = ids.cpu()
                length = max(length, ids.shape[1])
                steps.finish(ids.numel())
    return completions[:, :length]


@final
class _StepProgress:
    """Advance by each decoding step of a batch, because one batch of a large model takes minutes.

    A step counts as its share of the batch's rows; what the batch did not need or an earlier job did, counts at its
    end.
    """

    def __init__(self, advance: Advance, num_rows: int, max_new_tokens: int, check_stop: Callable[[], None]):
        self.advance, self.num_rows, self.max_new_tokens = advance, num_rows, max_new_tokens
        self.check_stop = check_stop
        self.num_started = 0

    def before_step(self) -> None:
        """Count the step before this one, unless this is to be the end."""
        self.check_stop()
        if self.num_started:
            self.advance(self.num_rows / self.max_new_tokens, tokens=self.num_rows)
        self.num_started += 1

    def finish(self, num_tokens: int) -> None:
        """Count what is left of the batch, which has this many tokens."""
        num_counted = max(0, self.num_started - 1)
        left = self.num_rows * (self.max_new_tokens - num_counted) / self.max_new_tokens
        self.advance(left, tokens=num_tokens - self.num_rows * num_counted)


def _decode_batch(
    decoder: Decoder,
    prompts: list[Tensor],
    max_new_tokens: int,
    selector: TokenSelector,
    *,
    config: DecodingConfig,
    end_tokens: Sequence[int],
    check_stop: Callable[[], None],
    on_tokens: Callable[[Tensor], None] | None,
) -> Tensor:
    """Decode one batch, by the strategy's own search or token by token: B prompts (P,) -> (B, S)."""
    search = STRATEGIES[config.strategy].search
    if search is None:
        decode = partial(
            _decode_tokens, decoder, prompts, max_new_tokens, selector, native=config.native, on_tokens=on_tokens
        )
    else:
        score = selector.log_probabilities
        decode = partial(search, decoder, torch.stack(prompts), max_new_tokens, config=config, score=score)
    return decode(end_tokens=end_tokens, check_stop=check_stop)


def _decode_tokens(
    decoder: Decoder,
    prompts: list[Tensor],
    max_new_tokens: int,
    selector: TokenSelector,
    *,
    native: bool,
    end_tokens: Sequence[int],
    check_stop: Callable[[], None],
    on_tokens: Callable[[Tensor], None] | None,
) -> Tensor:
    """Decode one batch token by token: B prompts (P,) -> (B, S)."""
    # 1. Prefill the prompts once; `context` (B, P + S) takes the completions.
    logits, kv_cache, context = _prefill(decoder, prompts, max_new_tokens, native)
    batch, length = len(prompts), context.shape[1] - max_new_tokens
    completions = context.new_full((batch, max_new_tokens), end_tokens[0] if end_tokens else 0)
    active = torch.arange(batch, device=context.device)  # rows still in the batch
    finished = torch.zeros(batch, dtype=torch.bool, device=context.device)  # among those
    for position in range(max_new_tokens):
        check_stop()
        # 2. Select the next token of every row; a finished row repeats the first end token.
        token = selector(logits, context[:, :length])
        if end_tokens:
            token = torch.where(finished, end_tokens[0], token)
            finished |= is_end(token, end_tokens)
        completions[active, position] = token
        if on_tokens is not None:
            on_tokens(completions[:, : position + 1])
        if position + 1 == max_new_tokens:
            break
        context[:, length] = token
        length += 1
        # 3. Every few steps, stop if all rows have finished; drop finished rows once they are a quarter of the batch.
        if end_tokens and position % STEPS_BETWEEN_CHECKS == 0:
            num_finished = int(finished.sum())
            if num_finished == len(active):
                break
            if 4 * num_finished >= len(active):
                kept = (~finished).nonzero().squeeze(1)
                kv_cache, context, active = decoder.select_rows(kv_cache, kept), context[kept], active[kept]
                token, finished = token[kept], finished[kept]
                selector.select_rows(kept)
        # 4. Run the model on the new tokens alone.
        logits, kv_cache = decoder.decode_step(token, kv_cache)
    return completions[:, : longest(completions, end_tokens)] if end_tokens else completions


def _prefill(
    decoder: Decoder, prompts: list[Tensor], max_new_tokens: int, native: bool
) -> tuple[Tensor, KvCache, Tensor]:
    """Compute B prompts (P,): -> logits (B, V), cache, and ids (B, longest P + max_new_tokens) for the completions.

    Equal prompts are computed once. Shorter ones are padded on the left; as context, padding is an id that no logit
    has, so that nothing repeats or quotes it.
    """
    longest = max(len(prompt) for prompt in prompts)
    num_padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=prompts[0].device)
    padded = torch.stack([F.pad(prompt, (longest - len(prompt), 0), value=decoder.num_tokens) for prompt in prompts])
    context = F.pad(padded, (0, max_new_tokens))
    distinct, row_of = torch.unique(padded, dim=0, return_inverse=True)
    if len(distinct) == len(padded):
        distinct, row_of = padded, None
    else:
        num_padding = torch.zeros_like(num_padding[: len(distinct)]).scatter_(0, row_of, num_padding)
    ids = distinct.where(distinct < decoder.num_tokens, 0)
    is_padded = bool(num_padding.any())
    logits, kv_cache = decoder.prefill(ids, max_new_tokens, num_padding if is_padded else None, native=native)
    if row_of is not None:
        logits, kv_cache = logits[row_of], decoder.select_rows(kv_cache, row_of)
    return logits, kv_cache, context


def _batches(rows: list[Tensor], batch_size: int, mixes_lengths: bool) -> list[list[int]]:
    """Sort row numbers into batches, shortest prompts first; one length a batch unless `mixes_lengths`."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    by_length = [list(group) for _, group in groupby(order, key=lambda index: len(rows[index]))]
    groups = [order] if mixes_lengths else by_length
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


def bf16_copy(model: ModuleType) -> ModuleType:
    """Copy a model with its parameters in bf16; buffers, such as rotary frequencies, stay as they are."""
    weights = {id(weight): nn.Parameter(weight.detach().bfloat16(), False) for weight in model.parameters()}
    return copy.deepcopy(model, weights)
