"""Searches of a vocabulary give what torch's own give. Alone: pytest tests/kernels/test_topk.py"""

import pytest
import torch

from hypergen.kernels.topk import BLOCK, argmax, topk


def random_logits(count, num_tokens):
    """Flat and peaked rows."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, num_tokens, generator=draw) * torch.rand(count, 1, generator=draw) * 8


@pytest.mark.parametrize("num_tokens", [1, 50, 64, 128, 4096, 20_000, 20_001])
def test_searches_of_a_vocabulary(num_tokens):
    """As torch's own, the first of equals included."""
    logits = random_logits(9, num_tokens)
    assert argmax(logits).equal(logits.argmax(-1))
    assert argmax(logits.round()).equal(logits.round().argmax(-1))
    values, ids = topk(logits, min(5, num_tokens))
    expected = logits.topk(min(5, num_tokens))
    assert values.equal(expected.values) and ids.equal(expected.indices)


@pytest.mark.parametrize("num_tokens", [50, 128, 4096, 4100])
def test_argmax_of_bf16_takes_the_first_of_equals(num_tokens):
    """In blocks where the vocabulary is made of them."""
    logits = random_logits(9, num_tokens).bfloat16()
    assert argmax(logits).equal(logits.float().argmax(-1))


def test_more_than_there_are_gives_all():
    logits = random_logits(3, 7)
    values, ids = topk(logits, 50)
    assert values.equal(logits.sort(descending=True).values) and ids.shape == (3, 7)


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 40 * BLOCK - 1, 40 * BLOCK, 40 * BLOCK + 3])
def test_every_place_is_searched_the_rest_after_the_last_block_too(place):
    logits = torch.zeros(2, 40 * BLOCK + 4)
    logits[1, place] = 1.0
    values, ids = topk(logits, 3)
    assert values[1, 0] == 1.0 and ids[1, 0] == place
