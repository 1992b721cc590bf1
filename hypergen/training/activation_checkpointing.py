"""Recompute activations in the backward pass, block by block, instead of keeping them (`--recompute`).

Memory falls to one block's activations plus one (B, T, D) tensor a block; a step takes about a third longer. The
numbers are the same, as there is no dropout. Not reentrant, so that frozen inputs keep their gradients
(huggingface/transformers#21381).

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from hypergen.runtime.patched_forward import patched_forwards


@contextmanager
def checkpointed(blocks: Sequence[nn.Module], enabled: bool) -> Iterator[None]:
    """Let the blocks keep only their inputs inside the context; without `enabled`, nothing changes."""
    if not enabled:
        yield
        return
    with patched_forwards(blocks, lambda forward: partial(checkpoint, forward, use_reentrant=False)):
        yield
