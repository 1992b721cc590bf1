"""Measure the diversity of completions as ids: type-token ratio, MATTR, repeated n-grams, distinct-n.

Each metric is one value a completion (nan where it is too short to have one), distinct-n one for all. Padding never
counts once completions went through `decoding.loop.trim`.
Does not know what a token means.

Shape letters: B completions, S tokens of a completion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hypergen.errors import InputError

Completions = Sequence[Tensor] | Tensor  # B tensors of ids (S,), or one of (B, S)


def ttr_values(completions: Completions, window: int = 96) -> Tensor:
    """Compute the type-token ratio of each completion, (B,): different tokens / tokens over its last `window` tokens.

    Above 0 to 1. Source: arXiv 2412.04318, Figures 2 and 9, which take the last 96 tokens.

    Raises:
        InputError: there is no completion, one is not of shape (S,), or the window is below 1.
    """
    _require_positive("ttr window", window)
    tails = [row[-window:] for row in _rows(completions)]
    return _tensor(len(row.unique()) / len(row) if len(row) else math.nan for row in tails)


def mattr_values(completions: Completions, window: int = 50) -> Tensor:
    """Compute the moving-average type-token ratio of each completion, (B,), over all its windows of `window` tokens.

    Above 0 to 1; unlike the type-token ratio it does not fall with length. A shorter completion counts as one window.
    Source: Covington and McFall, "Cutting the Gordian knot", 2010.

    Raises:
        InputError: there is no completion, one is not of shape (S,), or the window is below 1.
    """
    _require_positive("mattr window", window)
    return _tensor(_moving_average(row, window) if len(row) else math.nan for row in _rows(completions))


def repetition_values(completions: Completions, n: int) -> Tensor:
    """Compute rep-n of each completion, (B,): 1 - different n-grams / n-grams, the last one included.

    0 (no n-gram twice) to below 1; nan for a completion below n tokens. Source: Welleck et al., arXiv 1908.04319; the
    bigram and trigram repetition of arXiv 2605.22579.

    Raises:
        InputError: there is no completion, one is not of shape (S,), or n is below 1.
    """
    grams = [_ngrams(row, n) for row in _rows(completions)]
    return _tensor(1 - _num_different(rows) / len(rows) if len(rows) else math.nan for rows in grams)


def repeated_tokens(completion: Tensor, n: int = 4) -> Tensor:
    """Mark the tokens of one completion that stand in an n-gram which occurred before in it: (S,) ids -> (S,) bool.

    What rep-n counts, token by token, so that a loop can be shown.
    """
    grams = [tuple(gram) for gram in _ngrams(completion, n).tolist()]
    first = {gram: start for start, gram in reversed(list(enumerate(grams)))}
    marks = torch.zeros(len(completion), dtype=torch.bool)
    for start, gram in enumerate(grams):
        if first[gram] < start:
            marks[start : start + n] = True
    return marks


def distinct(completions: Completions, n: int) -> float:
    """Compute distinct-n: different n-grams / n-grams over all completions together; nan where there is no n-gram.

    Above 0 to 1; falls when completions resemble each other, and with their number.
    Source: Li et al., arXiv 1510.03055.

    Raises:
        InputError: there is no completion, one is not of shape (S,), or n is below 1.
    """
    grams = torch.cat([_ngrams(row, n) for row in _rows(completions)])
    return _num_different(grams) / len(grams) if len(grams) else math.nan


def _moving_average(row: Tensor, window: int) -> float:
    """Average the share of first occurrences over all windows of a completion (S,).

    A token is the first of its kind in a window where its previous occurrence lies before the window.
    """
    window = min(window, len(row))
    order = row.argsort(stable=True)
    same = row[order][1:] == row[order][:-1]
    previous = torch.full_like(row, -1, dtype=torch.long)
    previous[order[1:][same]] = order[:-1][same]
    starts = torch.arange(len(row) - window + 1, device=row.device)
    return float((previous.unfold(0, window, 1) < starts[:, None]).double().mean())


def _ngrams(row: Tensor, n: int) -> Tensor:
    """List all n-grams of a completion: (S,) -> (S - n + 1, n); none where S < n."""
    _require_positive("n-gram length", n)
    return row.unfold(0, n, 1) if len(row) >= n else row.new_empty(0, n)


def _num_different(grams: Tensor) -> int:
    return len(grams.unique(dim=0)) if len(grams) else 0


def _rows(completions: Completions) -> list[Tensor]:
    rows = list(completions)
    if not rows:
        raise InputError("measure of 0 completions: at least 1 is needed")
    if any(row.ndim != 1 for row in rows):
        raise InputError(f"completions of shape {tuple(rows[0].shape)}: must be (B, S), or B tensors of shape (S,)")
    return rows


def _tensor(numbers: Iterable[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} {value}: must be 1 or more")
