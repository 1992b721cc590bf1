"""Measure how much of a completion is quoted: the longest run of tokens that it shares with one training sequence.

Stands beside every diversity metric, because a model that recites its training set is diverse, too. Exact, for any
vocabulary and any length: nothing is hashed.
Does not know what a token means.

Shape letters: N training sequences, B completions, T tokens, S completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergen.data.loss_mask import is_content
from hypergen.decoding.ngram_index import require_tokens


def longest_overlap(completions: Sequence[Tensor] | Tensor, tokens: Tensor, loss_mask: Tensor | None = None) -> Tensor:
    """Compute the longest run of tokens that each completion shares with any one sequence of tokens (N, T): (B,) int64.

    Unit: tokens, 0 to the completion's length. Source: arXiv 2412.04318, Table 2 (longest training-set overlap); also
    measures how much of a held-out sequence is in the training set.

    Args:
        completions: B tensors of ids (S,), or one of (B, S).
        tokens: (N, T) ids to compare with, all of them.
        loss_mask: (N, T), whose padding is left out; None: there is none.

    Raises:
        InputError: `tokens` is not a filled (N, T) tensor of ids.
    """
    require_tokens(tokens)
    rows = [row.to(tokens.device) for row in completions]
    # 1. Rank all windows of 1, 2, 4, ... tokens, until no completion's window is in `tokens`.
    ranks, num_training = _window_ranks(rows, tokens, loss_mask)
    # 2. In the order of the widest, a completion's suffix shares most with one of its two training neighbours.
    before, after = _training_neighbours(ranks[-1], num_training)
    own = torch.arange(num_training, len(ranks[0]), device=tokens.device)
    runs = torch.maximum(_common_length(ranks, own, before), _common_length(ranks, own, after))
    # 3. Take the longest run that starts anywhere in each completion.
    lengths = torch.tensor([len(row) + 1 for row in rows], dtype=torch.long, device=tokens.device)
    row_of = torch.arange(len(rows), device=tokens.device).repeat_interleave(lengths)
    return runs.new_zeros(len(rows)).scatter_reduce_(0, row_of, runs, "amax")


def _window_ranks(rows: list[Tensor], tokens: Tensor, loss_mask: Tensor | None) -> tuple[list[Tensor], int]:
    """Rank the windows of 1, 2, 4, ... tokens at every position of all sequences laid end to end.

    An id of its own ends each sequence, and fills its padding, so a window across an end equals no other sequence's.
    Returns one tensor of ranks a width, and how many of the positions belong to training.
    """
    ends = -1 - torch.arange(len(tokens) + len(rows), device=tokens.device)
    training = torch.cat([tokens.long(), ends[: len(tokens), None]], 1)
    if loss_mask is not None:
        training[:, :-1] = training[:, :-1].where(is_content(loss_mask).to(tokens.device), ends[: len(tokens), None])
    training = training.flatten()
    pieces = [piece for row, end in zip(rows, ends[len(tokens) :, None], strict=True) for piece in (row.long(), end)]
    ranks = [_rank(torch.cat([training, *pieces]))]
    positions = torch.arange(len(ranks[0]), device=tokens.device)
    while _is_shared(ranks[-1], len(training)):
        width = 2 ** (len(ranks) - 1)
        following = ranks[-1][(positions + width).clamp(max=len(positions) - 1)]
        ranks.append(_rank(ranks[-1] * len(positions) + following))  # a window of twice the width is two of these
    return ranks, len(training)


def _is_shared(rank: Tensor, num_training: int) -> bool:
    in_training = torch.zeros_like(rank, dtype=torch.bool)
    in_training[rank[:num_training]] = True
    return bool(in_training[rank[num_training:]].any())


def _training_neighbours(rank: Tensor, num_training: int) -> tuple[Tensor, Tensor]:
    """Find, for each completion position, the training positions just before and just after it in the order of ranks.

    Where there is none, any training position does, since every one of them gives a run that is shared.
    """
    order = rank.argsort()
    positions = torch.arange(len(order), device=order.device)
    is_training = order < num_training
    some = int(is_training.nonzero()[0])
    before = positions.where(is_training, -1).cummax(0).values
    after = positions.where(is_training, len(order)).flip(0).cummin(0).values.flip(0)
    before, after = before.where(before >= 0, some), after.where(after < len(order), some)
    position_of = torch.empty_like(order).scatter_(0, order, positions)[num_training:]
    return order[before[position_of]], order[after[position_of]]


def _common_length(ranks: list[Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Count the tokens that are equal from positions `left` and `right` on: a sum of falling powers of two."""
    length = torch.zeros_like(left)
    for power in reversed(range(len(ranks) - 1)):
        length = length + (ranks[power][left + length] == ranks[power][right + length]) * 2**power
    return length


def _rank(values: Tensor) -> Tensor:
    rank: Tensor = values.unique(return_inverse=True)[1]
    return rank
