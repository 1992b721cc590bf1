"""Make random generators that are independent of the order of draws."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(seed: int, *purpose: object) -> torch.Generator:
    """Make a CPU generator whose state depends on the seed and its purpose, not on what was drawn before.

    Draws of one purpose then stay the same when another one is added.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
