"""Split items into training and held-out ones, and keep the two apart.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.modality import Item
from hypergen.runtime.seeding import seeded_generator

HELD_OUT_SHARE = 4  # at most every fourth item is held out


def split_items(
    items: Sequence[Item], held_out: int, seed: int, source: str, instead: str
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Split items at random into (training, held out); no item is in both.

    Args:
        items: may be lazy; none is read here.
        held_out: how many are held out, if that is no more than a share of 1 / HELD_OUT_SHARE.
        seed: of the choice.
        source: where the items are from, for the message.
        instead: the option that names held-out items, for the message.

    Raises:
        InputError: fewer than two items.
    """
    if len(items) < 2:
        raise InputError(f"--data {source}: has one item, so none can be held out; give {instead}")
    order = torch.randperm(len(items), generator=seeded_generator(seed, "split")).tolist()
    held_out = min(held_out, max(1, len(items) // HELD_OUT_SHARE))
    return _Subset(items, order[held_out:]), _Subset(items, order[:held_out])


def unseen(held_out: Tensor, training: Tensor) -> Tensor:
    """Keep the held-out sequences (N, T) that are none of the training sequences.

    Raises:
        InputError: all of them are.
    """
    known = {row.numpy().tobytes() for row in training}
    kept = torch.tensor([row.numpy().tobytes() not in known for row in held_out])
    if not kept.any():
        raise InputError(f"held-out items: all {len(held_out)} sequences are trained on; name others")
    return held_out[kept]


def require_count(option: str, asked: int | None, held_out: Tensor) -> None:
    """Refuse an option that asks for more prompts than there are.

    Raises:
        InputError: with the number that there are.
    """
    if asked is not None and len(held_out) < asked:
        raise InputError(f"{option} {asked}: there are {len(held_out)} prompts that were not trained on")


@final
class _Subset(Sequence[Item]):
    """Hold some items of a lazy sequence, in a given order; nothing is read before it is asked for."""

    def __init__(self, items: Sequence[Item], order: Sequence[int]):
        self._items, self._order = items, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Subset(self._items, self._order[index])
        return self._items[self._order[index]]
