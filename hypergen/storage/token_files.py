"""Read stored sequences, and check ids before they index an embedding.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypergen.errors import InputError

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def stored_tokens(folder: Path, name: str, num_tokens: int = 2**31) -> Tensor:
    """Read stored sequences (N, T) of a run folder, ids below `num_tokens`.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise InputError(f"{path}: not there; only a hyperfitted run has it")
        tokens = load_file(path)["tokens"]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return checked_ids(str(path), tokens, num_tokens)


def checked_ids(where: str, ids: Any, num_tokens: int) -> Tensor:
    """Return ids (N, T) as int64 once they are known to be in range: on a GPU a wrong one kills the process.

    Raises:
        InputError: another type or shape, or an id that is negative or not below `num_tokens`.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in WHOLE_NUMBERS or ids.ndim != 2:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"{where}: must be a (N, T) tensor of whole numbers, found {found}")
    for extreme in (ids.min(), ids.max()) if ids.numel() else ():
        if not 0 <= int(extreme) < num_tokens:
            raise InputError(f"{where}: has id {int(extreme)}; the model has ids from 0 to {num_tokens - 1}")
    return ids.long()
