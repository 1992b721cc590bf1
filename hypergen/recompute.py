"""Activations that are computed again in the backward pass instead of being kept (`--recompute`), block by block.

Memory falls to one block's activations plus one (B, T, D) tensor a block; a step takes about a third longer. Numbers
are the same: there is no dropout. Not reentrant, so that frozen inputs keep their gradients
(huggingface/transformers#21381).
Does not know: architectures, losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[nn.Module], wanted: bool) -> Iterator[None]:
    """While this is entered, the blocks keep only their inputs; nothing changes where it is not wanted."""
    if not wanted:
        yield
        return
    own: list[Any] = [vars(block).get("forward") for block in blocks]  # of the instance, such as accelerate's hooks
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
