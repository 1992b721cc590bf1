"""Find what completions quote: how many recite the training set, and the longest run that one of them shares with it.

Shape letters: N completions, M training sequences, T tokens, S completion.
"""

from __future__ import annotations

from torch import Tensor

from hypergen.config import LONG_OVERLAP
from hypergen.evaluation.overlap import longest_overlap


def recited_rows(overlap: Tensor) -> list[int]:
    """List the completions that recite, from 0: overlaps (N,) in tokens -> rows, the longest overlap first."""
    order: list[int] = overlap.argsort(descending=True, stable=True).tolist()
    return [row for row in order if overlap[row] > LONG_OVERLAP]


def quoted_run(completion: Tensor, training: Tensor, loss_mask: Tensor | None, length: int) -> Tensor:
    """Cut the run of `length` tokens that a completion shares with a training sequence out of it.

    Args:
        completion: (S,) ids.
        training: (M, T) ids.
        loss_mask: (M, T), whose padding is no quotation; None: there is none.
        length: the longest overlap of this completion (`longest_overlap`), 1 or more.

    Returns:
        (length,) ids, the first such run.
    """
    windows = completion.unfold(0, length, 1)
    overlaps = longest_overlap(windows, training, loss_mask)
    run: Tensor = windows[int((overlaps == length).nonzero()[0])]
    return run
