"""Patch the `forward` of modules for a while, and restore afterwards what was there before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def patched_forwards(blocks: Sequence[nn.Module], change: Callable[[Any], Any]) -> Iterator[None]:
    """Replace each block's forward by what `change` makes of it, and restore it in the end; other attributes stay."""
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
