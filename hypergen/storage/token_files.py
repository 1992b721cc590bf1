"""Write and read sequences with their loss mask, and check ids before they index an embedding.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypergen.errors import InputError
from hypergen.storage.file_names import LOSS_MASK, TOKENS
from hypergen.storage.run_folder import stored_file

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def save_tokens(path: Path, tokens: Tensor, loss_mask: Tensor | None = None) -> None:
    """Write sequences (N, T), and which of their tokens the loss counts (N, T) where that is not all."""
    tensors = {TOKENS: tokens} if loss_mask is None else {TOKENS: tokens, LOSS_MASK: loss_mask}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def stored_tokens(folder: Path, name: str, num_tokens: int = 2**31) -> Tensor:
    """Read stored sequences (N, T) of a run folder, ids below `num_tokens`.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = folder / name
    tensors = _read(path)
    if TOKENS not in tensors:
        raise InputError(f"{path}: cannot be read ('{TOKENS}')")
    return checked_ids(str(path), tensors[TOKENS], num_tokens)


def stored_loss_mask(folder: Path, name: str) -> Tensor | None:
    """Read which tokens of stored sequences the loss counts (N, T); None where all do.

    Raises:
        InputError: there are no sequences, they cannot be read, or the mask is none of theirs.
    """
    path = folder / name
    tensors = _read(path)
    loss_mask, tokens = tensors.get(LOSS_MASK), tensors.get(TOKENS)
    if loss_mask is None:
        return None
    is_like = tokens is not None and loss_mask.dtype == torch.bool and loss_mask.shape == tokens.shape
    if not is_like or not bool(loss_mask.any(-1).all()):
        found = f"{loss_mask.dtype} of shape {tuple(loss_mask.shape)}"
        raise InputError(f"{path}: its {LOSS_MASK} must be truth values, some true for each sequence, found {found}")
    return loss_mask


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(stored_file(path.parent, path.name))
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


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
