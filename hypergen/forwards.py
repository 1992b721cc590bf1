"""Blocks that run otherwise for a while: another `forward` in front of each, and afterwards what was there before.

Does not know: why, architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def changed_forwards(blocks: Sequence[nn.Module], change: Callable[[Any], Any]) -> Iterator[None]:
    """While this is entered, each block's forward is what `change` makes of its own; all other attributes stay."""
    own: list[Any] = [vars(block).get("forward") for block in blocks]  # of the instance, such as accelerate's hooks set
    try:
        for block in blocks:
            block.forward = change(block.forward)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward
