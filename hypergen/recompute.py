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

from torch import nn
from torch.utils.checkpoint import checkpoint

from hypergen.forwards import changed_forwards


@contextmanager
def recomputed(blocks: Sequence[nn.Module], wanted: bool) -> Iterator[None]:
    """While this is entered, the blocks keep only their inputs; nothing changes where it is not wanted."""
    if not wanted:
        yield
        return
    with changed_forwards(blocks, lambda forward: partial(checkpoint, forward, use_reentrant=False)):
        yield
