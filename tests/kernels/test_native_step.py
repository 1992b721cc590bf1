"""Native steps: the same logits and ids as torch's, whatever the threads and the other rows.

What needs a compiler is skipped without one. Alone: pytest tests/kernels/test_native_step.py
"""

from dataclasses import replace

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import bf16_copy, generate
from hypergen.kernels import native_library, native_step
from hypergen.kernels.native_step import NativeStep, attach_native_step
from hypergen.runtime.console import warn_once
from hypergen.text.model import TextModel
from tests.kernels.packed import logits_of, needs_compiler, new_module, pack, rows_of


def with_step(packed):
    fast, reason = attach_native_step(packed)
    assert fast.native is not None and reason is None
    return fast


@pytest.fixture
def native_calls(monkeypatch):
    """The number of rows of every native step."""
    calls, real = [], NativeStep.__call__

    def counted(step, token, kv_cache):
        calls.append(len(token))
        return real(step, token, kv_cache)

    monkeypatch.setattr(NativeStep, "__call__", counted)
    return calls


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 7, 13, 40])
def test_logits_are_those_of_torch(packed, count):
    fast, prompt, steps = with_step(packed), rows_of(count, 5), rows_of(count, 40)
    expected, given = logits_of(packed, prompt, steps), logits_of(fast, prompt, steps, native=True)
    assert torch.allclose(given, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@needs_compiler
def test_padding_is_not_seen(packed):
    if packed.position_embedding is not None and packed.norm == "rms":
        pytest.skip("pictures start at the same position")
    fast, num_padding = with_step(packed), torch.tensor([0, 1, 17, 30])
    prompt, steps = rows_of(4, 33), rows_of(4, 20)
    expected = logits_of(packed, prompt, steps, num_padding)
    given = logits_of(fast, prompt, steps, num_padding, native=True)
    assert torch.allclose(given, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@needs_compiler
@torch.no_grad()
def test_neither_threads_nor_other_rows_change_a_bit(packed, monkeypatch):
    monkeypatch.setattr(native_step, "BYTES_A_THREAD", 1)
    fast, prompt, steps = with_step(packed), rows_of(14, 5), rows_of(14, 20)
    _, kv_cache = fast.prefill(prompt, 25, native=True)
    _, others = fast.prefill(prompt, 25, native=True)
    chosen, before = torch.tensor([3, 11, 3]), torch.get_num_threads()
    others = fast.select_rows(others, chosen)
    try:
        for token in steps.T:
            torch.set_num_threads(1)
            logits, kv_cache = fast.decode_step(token, kv_cache)
            torch.set_num_threads(3)
            some, others = fast.decode_step(token[chosen], others)
            assert some.equal(logits[chosen])
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_bf16_weights_are_those_of_the_copy():
    """The step sums in fp32 what the weights in bf16 give: closer to fp32 on the same weights than torch's is."""
    half = with_step(pack(bf16_copy(new_module("llama"))))
    prompt, steps = rows_of(3, 5), rows_of(3, 20)
    rounded = new_module("llama")
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.copy_(weight.bfloat16())
    expected, given = logits_of(pack(rounded), prompt, steps), logits_of(half, prompt, steps, native=True)
    assert torch.allclose(given, expected, atol=0.03 * float(expected.abs().max()), rtol=0)


@needs_compiler
@torch.no_grad()
def test_arranging_loses_nothing(packed):
    """Values stay in order; keys lie in groups of as many tokens as a register has lanes."""
    fast = with_step(packed)
    lanes = native_library.load_native_library().lanes()
    parts = torch.randn(2, 3, packed.num_groups, 21, packed.head_width)
    keys, values = fast.native.arrange(parts, 30)
    assert keys.shape[2] >= 30 and keys.shape[2] % lanes == 0
    assert values[:, :, :21].equal(parts[1])
    grouped = keys.view(3, packed.num_groups, -1, packed.head_width, lanes).transpose(3, 4).flatten(2, 3)
    assert grouped[:, :, :21].equal(parts[0])


@needs_compiler
@torch.no_grad()
def test_tokens_without_a_place_are_refused(packed):
    fast = with_step(packed)
    _, kv_cache = fast.prefill(rows_of(2, 5), 6, native=True)
    with pytest.raises(IndexError, match=r"token ids \[1, 54\]: must be 0 to 5[23]"):
        fast.decode_step(torch.tensor([1, 54]), kv_cache)
    while kv_cache.length < kv_cache.recent_kv[0].shape[3]:
        _, kv_cache = fast.decode_step(torch.tensor([1, 2]), kv_cache)
    with pytest.raises(IndexError, match="there is room for"):
        fast.decode_step(torch.tensor([1, 2]), kv_cache)


@needs_compiler
@pytest.mark.parametrize("shift", [1.0, float("nan")])
def test_a_step_with_other_logits_is_not_attached(monkeypatch, capsys, shift):
    packed, real = pack(new_module("llama")), NativeStep.__call__
    monkeypatch.setattr(NativeStep, "__call__", lambda *given: real(*given) + shift)
    given, reason = attach_native_step(packed)
    assert given is packed and "logits differ by" in reason
    assert capsys.readouterr() == ("", "")


def test_elsewhere_nothing_is_compiled(empty_cache, monkeypatch):
    monkeypatch.setattr(native_library.sys, "platform", "darwin")
    monkeypatch.setattr(native_library, "_load", lambda: pytest.fail("compiled"))
    packed = pack(new_module("llama"))
    given, reason = attach_native_step(packed)
    assert given is packed and reason is None


# Through the decoding loop.


@needs_compiler
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ids_are_the_same_with_ragged_prompts_that_end(name, native_calls):
    model = TextModel(new_module(name))
    prompts = [row[: 3 + 2 * number] for number, row in enumerate(rows_of(9, 30))]
    plain = generate(model, prompts, 50, DecodingConfig(native=False), end_tokens=(7,))
    assert not native_calls
    assert generate(model, prompts, 50, end_tokens=(7,)).equal(plain)
    assert native_calls


@needs_compiler
def test_asking_for_native_steps_leaves_no_trace_in_the_model(native_calls):
    """The next caller, who does not ask, gets torch's."""
    model, prompts = TextModel(new_module("llama")), rows_of(2, 5)
    generate(model, prompts, 10)
    assert native_calls
    native_calls.clear()
    generate(model, prompts, 10, DecodingConfig(native=False))
    with torch.no_grad():
        _, kv_cache = model.prefill(prompts, 3)
        model.decode_step(prompts[:, 0], kv_cache)
    assert not native_calls


def test_without_a_compiler_torch_decodes_and_that_is_said_once(empty_cache, monkeypatch, capsys):
    warn_once.cache_clear()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native_library.shutil, "which", lambda name: None)
    monkeypatch.setattr(native_library.sys, "platform", "linux")
    model = TextModel(new_module("llama"))
    for strategy in ("greedy", "top-p"):
        assert generate(model, rows_of(2, 5), 4, DecodingConfig(strategy=strategy)).shape == (2, 4)
        model.train()
    told = capsys.readouterr().err
    reason = "there is no C++ compiler (c++, g++ or $CXX)"
    assert told.count("native decoding") == 1
    assert f"hypergen: native decoding is unavailable ({reason}); using torch instead\n" in told


def test_a_model_with_other_weights_is_packed_again():
    model, prompt = TextModel(new_module("llama")), rows_of(1, 5)
    before = generate(model, prompt, 20)
    with torch.no_grad():
        model.causal.lm_head.weight.neg_()
    after = generate(model, prompt, 20)
    assert not after.equal(before)
    assert after.equal(generate(model, prompt, 20, replace(DecodingConfig(), native=False)))
