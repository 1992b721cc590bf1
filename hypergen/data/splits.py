"""Split items into training and held-out ones, and keep the two apart.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hypergen.data.lazy import Subset
from hypergen.errors import InputError
from hypergen.modality import Encoded, Item
from hypergen.runtime.console import warn
from hypergen.runtime.seeding import seeded_generator

HELD_OUT_SHARE = 4  # at most every fourth item is held out

Cut = Callable[[Item], tuple[Item, Item] | None]  # the only item -> what is trained on, and its held-out end


def split_items(
    items: Sequence[Item], held_out: int, seed: int, source: str, instead: str, *, cut: Cut
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Split items at random into (training, held out); no item is in both.

    Args:
        items: may be lazy; none is read here.
        held_out: how many are held out, if that is no more than a share of 1 / HELD_OUT_SHARE.
        seed: of the choice.
        source: where the items are from, for the message.
        instead: the option that names held-out items, for the message.
        cut: cuts the end off the only item of a source.

    Raises:
        InputError: fewer than two items, and the only one cannot be cut.
    """
    if len(items) < 2:
        parts = cut(items[0]) if len(items) else None
        if parts is None:
            raise InputError(f"--data {source}: has one item, so none can be held out; give {instead}")
        warn(f"--data {source}: has one item, so its end is held out and never trained on; {instead} names others")
        return [parts[0]], [parts[1]]
    order = array("q")
    order.frombytes(torch.randperm(len(items), generator=seeded_generator(seed, "split")).numpy().tobytes())
    held_out = min(held_out, max(1, len(items) // HELD_OUT_SHARE))
    return Subset(items, order[held_out:]), Subset(items, order[:held_out])


def unseen(held_out: Encoded, training: Tensor) -> Encoded:
    """Keep the held-out sequences that are none of the training sequences (N, T).

    Raises:
        InputError: all of them are.
    """
    known = {row.numpy().tobytes() for row in training}
    tokens, loss_mask = held_out
    kept = torch.tensor([row.numpy().tobytes() not in known for row in tokens])
    if not kept.any():
        raise InputError(f"held-out items: all {len(tokens)} sequences are trained on; name others")
    return Encoded(tokens[kept], None if loss_mask is None else loss_mask[kept])


def require_count(option: str, asked: int | None, held_out: Tensor) -> None:
    """Refuse an option that asks for more prompts than there are.

    Raises:
        InputError: with the number that there are.
    """
    if asked is not None and len(held_out) < asked:
        raise InputError(f"{option} {asked}: there are {len(held_out)} prompts that were not trained on")
