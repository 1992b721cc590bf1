"""The life cycle of a packed copy: when it is made, made again, dropped, and how native steps come and go.

Alone: pytest tests/kernels/test_packed_decoder.py
"""

import copy
import pickle

import pytest
import torch

from hypergen.kernels import packed_decoder
from hypergen.kernels.packed_decoder import PackedDecoder
from tests.kernels.packed import needs_compiler, new_module, pack, rows_of


def note(_message):
    """Take a message and do nothing; a function of a module, so that it can be pickled."""


class Counted:
    """Pack a module, and count how often."""

    def __init__(self):
        self.module, self.count = new_module("pictures"), 0

    def __call__(self):
        self.count += 1
        return pack(self.module)


def test_packs_once_and_again_when_a_weight_has_changed():
    build, decoder = Counted(), PackedDecoder(note)
    first = decoder.get(build.module, build)
    assert decoder.get(build.module, build) is first and build.count == 1
    with torch.no_grad():
        next(build.module.parameters()).add_(1)
    second = decoder.get(build.module, build)
    assert second is not first and build.count == 2
    next(build.module.parameters()).data = next(build.module.parameters()).data.clone()
    assert decoder.get(build.module, build) is not second and build.count == 3


def test_weights_that_cannot_be_packed_are_tried_once():
    count, module, decoder = [], new_module("pictures"), PackedDecoder(pytest.fail)
    for _ in range(2):
        assert decoder.get(module, lambda: count.append(1), native=True) is None
    assert len(count) == 1


def test_a_failed_build_is_tried_again():
    build, decoder = Counted(), PackedDecoder(note)

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        decoder.get(build.module, fail)
    assert decoder.get(build.module, build) is not None


def test_what_is_dropped_is_packed_again():
    build, decoder = Counted(), PackedDecoder(note)
    first = decoder.get(build.module, build)
    decoder.drop()
    assert decoder.get(build.module, build) is not first and build.count == 2


@pytest.mark.parametrize("again", [copy.deepcopy, lambda decoder: pickle.loads(pickle.dumps(decoder))])
def test_copies_are_empty_and_pack_for_themselves(again):
    build, decoder = Counted(), PackedDecoder(note)
    first = decoder.get(build.module, build)
    other = again(decoder)
    assert other.get(build.module, build) is not first and build.count == 2
    assert decoder.get(build.module, build) is first


@needs_compiler
def test_native_steps_are_attached_where_they_are_asked_for_and_tried_once(monkeypatch):
    build, decoder, tried = Counted(), PackedDecoder(pytest.fail), []
    real = packed_decoder.attach_native_step
    monkeypatch.setattr(packed_decoder, "attach_native_step", lambda model: tried.append(1) or real(model))
    assert decoder.get(build.module, build).native is None and not tried
    packed = decoder.get(build.module, build, native=True)
    assert packed.native is not None and build.count == 1
    assert decoder.get(build.module, build, native=True) is packed and decoder.get(build.module, build) is packed
    assert len(tried) == 1


def test_a_fallback_is_told_once_a_copy(monkeypatch):
    told = []
    monkeypatch.setattr(packed_decoder, "attach_native_step", lambda model: (model, "no compiler"))
    build, decoder = Counted(), PackedDecoder(told.append)
    decoder.get(build.module, build)
    assert told == []
    for _ in range(2):
        assert decoder.get(build.module, build, native=True).native is None
    assert told == ["native decoding is unavailable (no compiler); using torch instead"]


def test_nothing_is_told_where_native_code_is_not_to_be_expected(monkeypatch):
    monkeypatch.setattr(packed_decoder, "attach_native_step", lambda model: (model, None))
    build = Counted()
    assert PackedDecoder(pytest.fail).get(build.module, build, native=True) is not None


@needs_compiler
@torch.no_grad()
def test_a_cache_is_decoded_the_way_it_was_made():
    """Both ways are used in turns on one copy, and neither disturbs the other."""
    build, decoder, prompt, steps = Counted(), PackedDecoder(note), rows_of(3, 5), rows_of(3, 6)
    caches = {}
    for native in (True, False):
        _, caches[native] = decoder.get(build.module, build, native=native).prefill(prompt, 12, native=native)
        assert caches[native].is_native == native
    for token in steps.T:
        for native in (True, False):
            logits, caches[native] = decoder.decode_step(token, caches[native])
            assert caches[native].is_native == native and logits.shape == (3, 53)
    chosen = torch.tensor([2, 0, 2])
    after = [decoder.decode_step(chosen, decoder.select_rows(cache, chosen))[0] for cache in caches.values()]
    torch.testing.assert_close(*after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[0][0], after[0][2])
