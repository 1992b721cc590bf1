"""A cache with capacity from the start against transformers' own. Alone: pytest tests/text/test_kv_cache.py"""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from hypergen.text.kv_cache import PreallocatedLayer, PrefixCache, new_cache, select_cache_rows
from tests.text import tiny

ROWS, HEADS, WIDTH = 3, 2, 8


def states(length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(ROWS, HEADS, length, WIDTH, generator=generator) for _ in range(2))


def updated(cache: DynamicCache, lengths: list[int]) -> list[torch.Tensor]:
    """Keys and values of layer 0 after updates of these lengths."""
    for seed, length in enumerate(lengths):
        keys, values = cache.update(*states(length, seed), 0)
    return [keys.clone(), values.clone()]


@pytest.mark.parametrize("capacity", [1, 7, 8, 100])
def test_gives_the_keys_and_values_of_transformers(capacity):
    config, lengths = tiny.config("llama"), [5, 1, 1, 1]
    ours, theirs = new_cache(config, capacity), DynamicCache(config=config)
    for mine, other in zip(updated(ours, lengths), updated(theirs, lengths), strict=True):
        assert mine.equal(other)
    assert ours.get_seq_length() == theirs.get_seq_length() == 8


def test_a_step_within_the_capacity_copies_no_prefix():
    cache = new_cache(tiny.config("llama"), 8)
    updated(cache, [5])
    before = [buffer.data_ptr() for buffer in cache.layers[0].buffers]
    cache.update(*states(3, 9), 0)
    assert [buffer.data_ptr() for buffer in cache.layers[0].buffers] == before
    cache.update(*states(1, 9), 0)  # one too many
    assert [buffer.data_ptr() for buffer in cache.layers[0].buffers] != before
    assert cache.layers[0].capacity == 18


def test_other_layers_stay_as_transformers_made_them():
    kinds = [type(layer).__name__ for layer in new_cache(tiny.config("gemma3_text"), 8).layers]
    assert kinds == ["DynamicSlidingWindowLayer"] * 3 + [PreallocatedLayer.__name__]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_selected_rows_leave_the_first_cache_usable(kind):
    cache, rows = new_cache(tiny.config(kind), 9), torch.tensor([2, 0, 0, 1])
    keys, values = updated(cache, [5])
    chosen = select_cache_rows(cache, rows)
    more_keys, more_values = (part[rows] for part in states(1, 7))
    new_keys, new_values = chosen.update(more_keys, more_values, 0)
    assert new_keys[:, :, :5].equal(keys[rows]) and new_values[:, :, :5].equal(values[rows])
    assert cache.layers[0].keys.equal(keys) and cache.layers[0].values.equal(values)
    again, _ = cache.update(*states(1, 8), 0)
    assert again[:, :, :5].equal(keys) and new_keys[:, :, 5:].equal(more_keys)


def test_rows_of_a_prefix_without_keys_and_values():
    prefix = PrefixCache(2, None, torch.tensor([[1, 2], [3, 4]]))
    chosen = prefix.select_rows(torch.tensor([1, 1]))
    assert chosen.prefix.tolist() == [[3, 4], [3, 4]] and (chosen.length, chosen.layers) == (2, None)
    assert prefix.prefix.tolist() == [[1, 2], [3, 4]]
