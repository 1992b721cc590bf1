"""The key-value cache of decoding: transformers' `DynamicCache`, with room for the whole completion from the start.

A step writes one column into a buffer where `DynamicLayer` copies the whole prefix. Layers of any other kind (sliding
windows, recurrent states) stay as transformers made them.
Does not know: models, ids, strategies.

Shape letters: B batch, H heads, L cached tokens, D width of a head.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


def new_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """An empty cache for `capacity` tokens; it grows where that proves too few."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache of these rows (B',), repeats allowed; the given one is left as it was."""
    selected = copy.copy(cache)
    selected.layers = [_shallow(layer) for layer in cache.layers]
    selected.reorder_cache(rows)  # type: ignore[arg-type]
    return selected


def _shallow(layer: Any) -> Any:
    """A copy whose own lists and dicts (states of recurrent layers) can be changed without changing the original's."""
    copied = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (list, dict)):
            setattr(copied, name, copy.copy(value))
    return copied


class RoomyLayer(DynamicLayer):
    """Keys and values (B, H, L, D) as views into buffers (B, H, capacity, D)."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, l, D) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if self.buffers is None or end > self.capacity:
            self._make_room(key_states, value_states, end)
        assert self.buffers is not None
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., self.length : end, :] = states
        self.length = end
        return self._view()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, repeats allowed."""
        if self.buffers is not None:
            self.buffers = tuple(self._copied(buffer, beam_idx) for buffer in self.buffers)  # type: ignore[assignment]
            self._view()

    def _copied(self, buffer: Tensor, rows: Tensor) -> Tensor:
        kept = buffer.new_empty(len(rows), *buffer.shape[1:])
        kept[..., : self.length, :] = buffer[..., : self.length, :].index_select(0, rows.to(buffer.device))
        return kept

    def _make_room(self, key_states: Tensor, value_states: Tensor, needed: int) -> None:
        if needed > self.capacity:
            self.capacity = 2 * needed
        old, self.buffers = (
            self.buffers,
            tuple(  # type: ignore[assignment]
                torch.empty(
                    *states.shape[:-2], self.capacity, states.shape[-1], dtype=states.dtype, device=states.device
                )
                for states in (key_states, value_states)
            ),
        )
        if old is not None and self.buffers is not None:
            for new, previous in zip(self.buffers, old, strict=True):
                new[..., : self.length, :] = previous[..., : self.length, :]

    def _view(self) -> tuple[Tensor, Tensor]:
        assert self.buffers is not None
        keys, values = (buffer[..., : self.length, :] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values
