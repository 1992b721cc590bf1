"""Find where completions end: a model may have several tokens that end a text, such as the end of a turn.

Does not know what a token means.

Shape letters: B batch, S completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def is_end(tokens: Tensor, end_tokens: Sequence[int]) -> Tensor:
    """Tell which ids end a completion: (...) -> (...) bool. With none or one there is nothing to combine."""
    if not end_tokens:
        return torch.zeros_like(tokens, dtype=torch.bool)
    found = tokens == end_tokens[0]
    for one in end_tokens[1:]:
        found |= tokens == one
    return found


def longest(completions: Tensor, end_tokens: Sequence[int]) -> int:
    """Find the length (B, S) up to the last row's first end token, that one included."""
    return min(completions.shape[1], 1 + int((~is_end(completions, end_tokens)).cummin(1).values.sum(1).max()))


def trim(tokens: Tensor, end_tokens: Sequence[int]) -> list[Tensor]:
    """Cut each row of (B, S) before its first end token; rows stay whole where there is none."""
    ends = torch.cat([is_end(tokens, end_tokens), tokens.new_ones(len(tokens), 1, dtype=torch.bool)], 1)
    return [row[:length] for row, length in zip(tokens, ends.int().argmax(1).tolist(), strict=True)]


def stack(rows: Sequence[Tensor], end_tokens: Sequence[int]) -> Tensor:
    """Stack completions of different lengths: B rows -> (B, S), the first end token from where each row ends."""
    filler = end_tokens[0] if end_tokens else 0
    filled = pad_sequence(list(rows), batch_first=True, padding_value=filler)
    is_over = is_end(filled, end_tokens).int().cummax(1).values.bool()
    return filled.where(~is_over, filler)
