"""Cache keys and values in transformers' `DynamicCache`, with capacity for the whole completion from the start.

A step writes one column into a buffer where `DynamicLayer` copies the whole prefix. Layers of any other kind (sliding
windows, recurrent states) stay as transformers made them.

Shape letters: B batch, H heads, L cached tokens, D width of a head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class PrefixCache:
    """Hold the cache of a prefix. A decoding step uses it up; `select_rows` leaves it as it was."""

    length: int
    """Tokens seen so far."""
    layers: DynamicCache | None
    """Keys and values of the prefix; None where the architecture keeps none that can be used."""
    prefix: Tensor | None
    """(B, length) ids, where the prefix is or may be computed again: there are no `layers`, or a length from which on
    they are others (`rotary`)."""

    def select_rows(self, rows: Tensor) -> PrefixCache:
        """Keep these rows (B',), repeats allowed."""
        layers = None if self.layers is None else select_cache_rows(self.layers, rows)
        return replace(self, layers=layers, prefix=None if self.prefix is None else self.prefix[rows])


def new_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """Make an empty cache for `capacity` tokens; it grows where that proves too few."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_cache_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Make a cache of these rows (B',), repeats allowed; the given one is left as it was."""
    selected = copy.copy(cache)
    selected.layers = [_shallow_copy(layer) for layer in cache.layers]
    selected.reorder_cache(cast(Any, rows))  # annotated as LongTensor, a name that no tensor has
    return selected


def _shallow_copy(layer: Any) -> Any:
    """Copy a layer so that its lists and dicts (states of recurrent layers) can change without the original's."""
    copied = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (list, dict)):
            setattr(copied, name, copy.copy(value))
    return copied


class PreallocatedLayer(DynamicLayer):
    """Hold keys and values (B, H, L, D) as views into buffers (B, H, capacity, D)."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.buffers: list[Tensor] = []  # of keys and of values, from the first update on

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, l, D) keys and values, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if not self.buffers or end > self.capacity:
            self._allocate(key_states, value_states, end)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., self.length : end, :] = states
        self.length = end
        return self._set_views()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, repeats allowed."""
        if self.buffers:
            self.buffers = [self._selected(buffer, beam_idx) for buffer in self.buffers]
            self._set_views()

    def _selected(self, buffer: Tensor, rows: Tensor) -> Tensor:
        selected = buffer.new_empty(len(rows), *buffer.shape[1:])
        selected[..., : self.length, :] = buffer[..., : self.length, :].index_select(0, rows.to(buffer.device))
        return selected

    def _allocate(self, key_states: Tensor, value_states: Tensor, needed: int) -> None:
        """Allocate buffers of `capacity` tokens, twice the needed ones where that is too few, and move the prefix."""
        if needed > self.capacity:
            self.capacity = 2 * needed
        former = self.buffers
        self.buffers = [
            states.new_empty(*states.shape[:-2], self.capacity, states.shape[-1])
            for states in (key_states, value_states)
        ]
        for buffer, previous in zip(self.buffers, former, strict=False):  # there are no former ones at first
            buffer[..., : self.length, :] = previous[..., : self.length, :]

    def _set_views(self) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[..., : self.length, :] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values
