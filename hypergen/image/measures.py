"""Numbers that need the picture's grid: how much of a completion merely continues what stands above it.

Does not know: what a code looks like, models.

Shape letters: B pictures, P prompt (start token included), S completion, h w code grid, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def copying(prompts: Tensor, completions: Tensor, width: int) -> dict[str, float]:
    """Prompts (B, P) and completions (B, S) on a grid `width` codes wide -> shares (0 to 1) over all pictures.

    `rows_copied`: of the completed rows, those equal to the row above, which may be the prompt's last.
    `codes_equal_above`: of the completed codes, those equal to the code above.
    Codes without a code above, and rows of which the prompt has a part, do not count; NaN where nothing is left.
    """
    codes = torch.cat([prompts.cpu()[:, 1:], completions.cpu()], 1)
    first = prompts.shape[1] - 1  # completed code
    equal = codes[:, width:] == codes[:, :-width] if codes.shape[1] > width else codes[:, :0].bool()
    first_row = max(1, -(-first // width))
    last_row = max(first_row, codes.shape[1] // width)
    rows = equal[:, (first_row - 1) * width : (last_row - 1) * width].reshape(-1, width)
    return {
        "rows_copied": rows.all(1).double().mean().item(),
        "codes_equal_above": equal[:, max(0, first - width) :].double().mean().item(),
    }
