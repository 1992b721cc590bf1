"""Beam search: of each prompt the K most likely continuations so far are kept, and the likeliest one is returned.

Likeliest by mean log-probability per token. A continuation that has ended stays among the K with the sum that it has,
and the search is over when all K have ended; with `stop_at_end` off nothing ends, and the ids are those of
`transformers.generate(num_beams=K)` over the same length.
Does not know: what a token means, where log-probabilities come from (`strategies.Chooser`).

Shape letters: B batch, P prompt, S completion, K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hypergen.strategies import Chooser


def decode_beams(
    model: Any, prompt: Tensor, max_new_tokens: int, choose: Chooser, end: int | None, check_stop: Callable[[], None]
) -> Tensor:
    """One batch: (B, P) -> (B, S), filled up with the end token. The prefix is computed once a prompt."""
    count, beams = len(prompt), choose.num_beams
    first = torch.arange(count, device=prompt.device)[:, None]
    rows = first.repeat_interleave(beams, 1).flatten()
    logits, state = model.start(prompt, max_new_tokens)
    logits, state, context = logits[rows], model.select(state, rows), prompt[rows]
    totals = torch.full((count, beams), -torch.inf, device=prompt.device)
    totals[:, 0] = 0.0  # the K copies of a prompt are equal: only one may grow at first
    ended = torch.zeros(count * beams, dtype=torch.bool, device=prompt.device)
    for position in range(max_new_tokens):
        check_stop()
        steps = choose.log_probabilities(logits, context)
        if end is not None:
            steps[ended] = -torch.inf
            steps[ended, end] = 0.0
        num_tokens = steps.shape[1]
        totals, places = (totals[..., None] + steps.view(count, beams, num_tokens)).flatten(1).topk(beams)
        rows = (first * beams + places // num_tokens).flatten()
        token = (places % num_tokens).flatten()
        context = torch.cat([context[rows], token[:, None]], 1)
        if end is not None:
            ended = ended[rows] | (token == end)
        if position + 1 == max_new_tokens or bool(ended.all()):
            break
        logits, state = model.step(token, model.select(state, rows))
    completions = context[:, prompt.shape[1] :].view(count, beams, -1)
    return completions[first.squeeze(1), _best(totals, completions, end)]


def _best(totals: Tensor, completions: Tensor, end: int | None) -> Tensor:
    """(B, K) sums of log-probabilities and (B, K, S) ids -> (B,) the beam with the highest mean."""
    lengths = torch.full_like(totals, completions.shape[2])
    if end is not None:
        lengths = ((completions != end).sum(2) + 1).clamp(max=completions.shape[2])
    return (totals / lengths).argmax(1)
