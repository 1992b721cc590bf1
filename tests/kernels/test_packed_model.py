"""Packed models against the modules that they are made from. Alone: pytest tests/kernels/test_packed_model.py"""

import pytest
import torch

from hypergen.image.transformer import ImageTransformer
from hypergen.kernels import packed_model
from hypergen.kernels.packed_model import PackedModel, quick_gelu
from tests.kernels.packed import MODULES, logits_of, new_module, pack, rows_of

TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}


@torch.no_grad()
def module_logits(module, tokens):
    """(B, T) ids -> (B, T, V), the module's own."""
    return module(tokens) if isinstance(module, ImageTransformer) else module(tokens, use_cache=False).logits


@pytest.fixture(params=MODULES)
def pair(request):
    module = new_module(request.param)
    return module, pack(module)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3, 20])
def test_logits_are_those_of_the_module(pair, count):
    module, packed = pair
    prompt, steps = rows_of(count, 7), rows_of(count + 1, 12)[:count]
    expected = module_logits(module, torch.cat([prompt, steps], 1))
    first, _ = packed.prefill(prompt, 19)
    torch.testing.assert_close(first, expected[:, 6], **TOLERANCE)
    torch.testing.assert_close(logits_of(packed, prompt, steps).transpose(0, 1), expected[:, 7:], **TOLERANCE)


@torch.no_grad()
def test_padding_is_not_seen(pair):
    module, packed = pair
    if isinstance(module, ImageTransformer):
        pytest.skip("pictures start at the same position")
    prompt, steps, num_padding = rows_of(3, 9), rows_of(3, 5), torch.tensor([0, 2, 8])
    first, _ = packed.prefill(prompt, 14, num_padding)
    given = torch.cat([first[None], logits_of(packed, prompt, steps, num_padding)]).transpose(0, 1)
    for row, pad in enumerate(num_padding.tolist()):
        alone = torch.cat([prompt[row, pad:], steps[row]])[None]
        torch.testing.assert_close(given[row], module_logits(module, alone)[0, 8 - pad :], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_a_large_cache_in_two_parts_gives_the_same(packed, padded, monkeypatch):
    """Its recent part fills up and moves several times."""
    prompt, steps = rows_of(5, 9), rows_of(5, 50)
    num_padding = torch.tensor([0, 1, 3, 8, 0]) if padded else None
    whole = logits_of(packed, prompt, steps, num_padding)
    monkeypatch.setattr(packed_model, "LARGE_CACHE", 0)
    monkeypatch.setattr(packed_model, "RECENT", 8)
    _, kv_cache = packed.prefill(prompt, 59, num_padding)
    assert kv_cache.prefix_kv[0].shape[3] == 9 and kv_cache.recent_kv[0].shape[3] == 8
    torch.testing.assert_close(logits_of(packed, prompt, steps, num_padding), whole, **TOLERANCE)


@torch.no_grad()
def test_more_tokens_than_announced_find_room(packed):
    """Outside native code, which writes where it is told to."""
    prompt, steps = rows_of(2, 5), rows_of(2, 30)
    expected, given = logits_of(packed, prompt, steps), []
    _, kv_cache = packed.prefill(prompt, 6)
    for token in steps.T:
        logits, kv_cache = packed.decode_step(token, kv_cache)
        given.append(logits)
    torch.testing.assert_close(torch.stack(given), expected, **TOLERANCE)


@torch.no_grad()
def test_selected_rows_go_on_alone_and_leave_the_given_cache(packed):
    prompt, token = rows_of(3, 6), torch.tensor([1, 2, 3])
    chosen = torch.tensor([2, 0, 2])
    _, kv_cache = packed.prefill(prompt, 8)
    copies = PackedModel.select_rows(kv_cache, chosen)
    some, _ = packed.decode_step(token[chosen], copies)
    every, _ = packed.decode_step(token, kv_cache)
    torch.testing.assert_close(some, every[chosen], **TOLERANCE)


@torch.no_grad()
def test_native_caches_are_made_only_when_asked_for_and_possible(packed):
    """Without a native step, asking changes nothing."""
    _, kv_cache = packed.prefill(rows_of(2, 5), 8, native=True)
    assert packed.native is None and not kv_cache.is_native


@torch.no_grad()
def test_few_rows_run_on_one_thread_and_the_number_is_restored(packed, monkeypatch):
    seen = []
    monkeypatch.setattr(PackedModel, "_advance", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for count in (1, packed_model.ROWS_FOR_THREADS):
            _, kv_cache = packed.prefill(rows_of(count, 5), 8)
            packed.decode_step(torch.zeros(count, dtype=torch.long), kv_cache)
            assert torch.get_num_threads() == 2
        monkeypatch.setattr(packed_model, "LARGE_MODEL", 0)
        packed.decode_step(torch.zeros(1, dtype=torch.long), packed.prefill(rows_of(1, 5), 8)[1])
        assert seen == [1, 2, 2]
        monkeypatch.setattr(packed_model, "LARGE_MODEL", 2**40)
        monkeypatch.setattr(PackedModel, "_advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            packed.decode_step(torch.zeros(1, dtype=torch.long), packed.prefill(rows_of(1, 5), 8)[1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_bytes_are_those_of_the_products(packed):
    assert packed.nbytes == packed.head.weight.nbytes + sum(
        product.weight.nbytes for block in packed.blocks for product in (block.qkv, block.out, block.up, block.down)
    )


def test_quick_gelu_is_its_formula():
    inner = torch.linspace(-9, 9, 100)
    torch.testing.assert_close(quick_gelu(inner), inner / (1 + torch.exp(-1.702 * inner)))
