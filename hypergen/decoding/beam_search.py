"""Decode by beam search: keep the K most likely continuations of each prompt, and return the best of them.

The best has the highest mean log-probability per token. A continuation that has ended stays among the K with its sum,
and the search is over when all K have ended; with `stop_at_end` off nothing ends, and the ids are those of
`transformers.generate(num_beams=K)` over the same length, also with a repetition penalty.
Does not know what a token means.

Shape letters: B batch, P prompt, S completion, K beams, V vocabulary, M = B * K rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hypergen.config import DecodingConfig
from hypergen.decoding.end_tokens import is_end
from hypergen.modality import Decoder

NUM_BEAMS = 4


def decode_beams(
    decoder: Decoder,
    prompts: Tensor,
    max_new_tokens: int,
    *,
    config: DecodingConfig,
    score: Callable[[Tensor, Tensor], Tensor],
    end_tokens: Sequence[int],
    check_stop: Callable[[], None],
) -> Tensor:
    """Decode one batch; see `strategies.Search`: (B, P) -> (B, S), filled up with the first end token."""
    # 1. Prefill the prompts once, and repeat each row for its K beams.
    batch, num_beams = len(prompts), config.num_beams or NUM_BEAMS
    row_of_prompt = torch.arange(batch, device=prompts.device)[:, None]
    rows = row_of_prompt.repeat_interleave(num_beams, 1).flatten()
    logits, kv_cache = decoder.prefill(prompts, max_new_tokens, native=config.native)
    logits, kv_cache, context = logits[rows], decoder.select_rows(kv_cache, rows), prompts[rows]
    totals = torch.full((batch, num_beams), -torch.inf, device=prompts.device)
    totals[:, 0] = 0.0  # the K copies of a prompt are equal: only one may grow at first
    ended = torch.zeros(batch * num_beams, dtype=torch.bool, device=prompts.device)
    for position in range(max_new_tokens):
        check_stop()
        # 2. Score every next token of every beam; one that has ended keeps its sum.
        steps = score(logits, context)
        if end_tokens:
            steps[ended] = -torch.inf
            steps[ended, end_tokens[0]] = 0.0
        # 3. Keep the K best of a prompt's K * V continuations.
        num_tokens = steps.shape[1]
        totals, best = (totals[..., None] + steps.view(batch, num_beams, num_tokens)).flatten(1).topk(num_beams)
        rows = (row_of_prompt * num_beams + best // num_tokens).flatten()
        token = (best % num_tokens).flatten()
        context = torch.cat([context[rows], token[:, None]], 1)
        if end_tokens:
            ended = ended[rows] | is_end(token, end_tokens)
        if position + 1 == max_new_tokens or bool(ended.all()):
            break
        # 4. Run the model on the new tokens, each behind the beam that it continues.
        logits, kv_cache = decoder.decode_step(token, decoder.select_rows(kv_cache, rows))
    # 5. Return each prompt's best beam.
    completions = context[:, prompts.shape[1] :].view(batch, num_beams, -1)
    return completions[row_of_prompt.squeeze(1), _best(totals, completions, end_tokens)]


def _best(totals: Tensor, completions: Tensor, end_tokens: Sequence[int]) -> Tensor:
    """Find the beam with the highest mean: sums of log-probabilities (B, K) and ids (B, K, S) -> (B,)."""
    lengths = ((~is_end(completions, end_tokens)).sum(2) + 1).clamp(max=completions.shape[2])
    return (totals / lengths).argmax(1)
