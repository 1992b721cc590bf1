"""The order in which a fixed set of sequences is visited: a pure function of (seed, epoch), so nothing need be saved.

Does not know what the sequences are. No other randomness exists in training.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator whose state depends on the seed and on what it is for, not on what was drawn before."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """(count,) permutation of the rows for this epoch."""
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """The last batch of an epoch may be smaller; no row is dropped."""
    return -(-count // batch_size)


def batch_rows(seed: int, step: int, count: int, batch_size: int) -> Tensor:
    """(B,) row numbers of optimizer step `step`, counted from 0 over all epochs."""
    epoch, index = divmod(step, steps_per_epoch(count, batch_size))
    return epoch_order(seed, epoch, count)[index * batch_size : (index + 1) * batch_size]
