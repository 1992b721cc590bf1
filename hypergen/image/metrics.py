"""Compute metrics on the grid of codes: rows copied from above, repetition in two dimensions, use of the codebook.

All look at the completed codes alone; the prompt counts only as the rows that stand above. No picture is decoded, so
they are cheap enough to be taken while training runs; `distribution_metrics` looks at pictures.

Shape letters: B pictures, P prompt (start token included), S completion, K codes, h w code grid.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from hypergen.modality import Metric

CODE_METRICS = {
    "rows_copied": Metric(
        head="rows copied",
        meaning="share of completed rows that equal the row above",
        is_verdict=True,
        better="lower",
        plain="copied rows",
    ),
    "codes_equal_above": Metric(
        head="codes equal above", meaning="share of completed codes that equal the code above", better="lower"
    ),
    "patches_repeated": Metric(
        head="rep-2x2",
        meaning="share of patches of 2 x 2 codes that repeat within a completion",
        is_summary=True,
        better="lower",
    ),
    "run_longest": Metric(
        head="longest run",
        meaning="most equal codes in a row, in the order of generation",
        is_count=True,
        decimals=1,
        is_detail=True,
    ),
    "run_mean": Metric(
        head="mean run",
        meaning="completed codes / runs of equal codes; 1 where no code follows itself",
        is_detail=True,
    ),
    "codebook_use": Metric(
        head="codes used",
        meaning="share of the code book that occurs in all completions together",
        is_detail=True,
    ),
    "codebook_perplexity": Metric(
        head="code perplexity",
        meaning="exp(entropy of the codes of all completions): codes used as if equally often",
        decimals=1,
        is_detail=True,
    ),
}


def copying(prompts: Tensor, completions: Tensor, width: int) -> dict[str, Tensor]:
    """Compute how much is copied from above: (B, P) and (B, S) -> name -> shares (B,), 0 to 1.

    `rows_copied`: of the completed rows, those equal to the row above, which may be the prompt's last.
    `codes_equal_above`: of the completed codes, those equal to the code above.
    Codes without a code above, and rows of which the prompt has a part, do not count; nan where nothing is left.
    Source: this project; the stripes and repeated rows of arXiv 2412.04318, Figure 6, in numbers.

    Args:
        prompts: start token included.
        completions: codes.
        width: w, codes in a row of the grid.
    """
    codes = torch.cat([prompts.cpu()[:, 1:], completions.cpu()], 1)
    first = prompts.shape[1] - 1  # completed code
    equal = codes[:, width:] == codes[:, :-width] if codes.shape[1] > width else codes[:, :0].bool()
    first_row = max(1, -(-first // width))
    last_row = max(first_row, codes.shape[1] // width)
    rows = rearrange(equal[:, (first_row - 1) * width : (last_row - 1) * width], "b (h w) -> b h w", w=width)
    return {
        "rows_copied": rows.all(2).double().mean(1),
        "codes_equal_above": equal[:, max(0, first - width) :].double().mean(1),
    }


def runs(completions: Tensor) -> dict[str, Tensor]:
    """Measure runs of equal codes in the order of generation (across row ends): (B, S) -> name -> codes (B,).

    `run_longest`: the longest run of a completion. `run_mean`: completed codes / runs. Both 1 (no code equals the one
    before it) to S; nan for an empty completion. Source: this project.
    """
    lengths = [row.cpu().unique_consecutive(return_counts=True)[1].double() for row in completions]
    longest = [row.max() if len(row) else torch.tensor(torch.nan) for row in lengths]
    return {"run_longest": torch.stack(longest).double(), "run_mean": torch.stack([row.mean() for row in lengths])}


def patch_repetition(prompts: Tensor, completions: Tensor, width: int, side: int = 2) -> dict[str, Tensor]:
    """Compute rep-n in two dimensions: `patches_repeated` (B,), 1 - different patches / patches.

    All patches of `side` x `side` codes at every place count whose codes are all completed. 0 (none occurs twice in the
    same completion) to below 1; nan where there is no patch.
    Source: this project, after rep-n (Welleck et al., arXiv 1908.04319).
    """
    patches = [_patches(grid, side) for grid in _grids(prompts, completions, width)]
    shares = [1 - len(part.unique(dim=0)) / len(part) if len(part) else math.nan for part in patches]
    return {"patches_repeated": torch.tensor(shares, dtype=torch.float64)}


def code_use(completions: Tensor, num_codes: int) -> dict[str, Tensor]:
    """Measure the use of the K codes over all completions (B, S) together: name -> a number of the whole set ().

    `codebook_use`: share (0 to 1) of the codes that occur. `codebook_perplexity`: exp of the entropy of their
    frequencies, 1 to K; nan where nothing is completed. Both grow with the number of codes looked at.
    Source: van den Oord et al., arXiv 1711.00937 (perplexity of a codebook).
    """
    counts = torch.bincount(completions.flatten().cpu(), minlength=num_codes).double()
    shares = counts / counts.sum()
    perplexity = (-torch.special.xlogy(shares, shares).sum()).exp()
    return {"codebook_use": (counts > 0).double().mean(), "codebook_perplexity": perplexity}


def _grids(prompts: Tensor, completions: Tensor, width: int) -> Tensor:
    """Lay completions on the grid: -> (B, h, w) codes, -1 where nothing is completed."""
    before, after = prompts.shape[1] - 1, -(prompts.shape[1] - 1 + completions.shape[1]) % width
    padded = F.pad(completions.cpu(), (before, after), value=-1)
    return rearrange(padded, "b (h w) -> b h w", w=width)


def _patches(grid: Tensor, side: int) -> Tensor:
    """Cut out the patches of completed codes: (h, w) -> (patches, side * side)."""
    if min(grid.shape) < side:
        return grid.new_empty(0, side * side)
    windows = grid.unfold(0, side, 1).unfold(1, side, 1)
    patches = rearrange(windows, "rows columns height width -> (rows columns) (height width)")
    return patches[(patches >= 0).all(1)]
