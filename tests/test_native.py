"""Native steps: the same logits and ids as torch's, whatever the threads and the other rows; and what happens where
they cannot be had. What needs a compiler is skipped without one."""

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hypergen import native
from hypergen.config import DecodingConfig
from hypergen.generation import generate
from hypergen.image.transformer import TransformerConfig, new_transformer
from hypergen.lean import LeanModel
from hypergen.native import NativeError, NativeStep, with_native_step
from hypergen.precision import in_bf16
from hypergen.sampling import Filters, candidates, sample
from hypergen.text.model import TextModel

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler"
)


def llama(**other):
    torch.manual_seed(0)
    shape = dict(hidden_size=40, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4, vocab_size=53)
    return TextModel(LlamaForCausalLM(LlamaConfig(max_position_embeddings=128, **(shape | other))))


def gpt2():
    torch.manual_seed(0)
    shape = dict(n_embd=48, n_layer=2, n_head=2, vocab_size=53, n_positions=128, activation_function="gelu_new")
    return TextModel(GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **shape)))


def pictures():
    config = TransformerConfig(num_codes=53, num_positions=128, width=64, num_layers=2, num_heads=2)
    return new_transformer(config, 0)


MODELS = {
    "llama": llama,
    "llama, few keys": lambda: llama(num_key_value_heads=2),
    "llama, wide heads": lambda: llama(head_dim=72),
    "llama, biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "gpt2": gpt2,
    "pictures": pictures,
}


@pytest.fixture(params=MODELS)
def packed(request) -> LeanModel:
    with torch.no_grad():
        model = MODELS[request.param]().eval()
        for weight in model.parameters():  # norms and biases too: fresh ones are 1 and 0
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
        return model._lean()


def rows_of(count: int, length: int) -> torch.Tensor:
    return torch.randint(50, (count, length), generator=torch.Generator().manual_seed(count))


def logits_of(model: LeanModel, prompt, steps, pads=None):
    """(steps, B, V) after each of these ids (B, steps), the prompt (B, P) computed by torch in any case."""
    _, state = model.start(prompt, prompt.shape[1] + steps.shape[1], pads)
    given = []
    for token in steps.T:
        logits, state = model.step(token, state)
        given.append(logits.float())
    return torch.stack(given)


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 7, 13, 40])
def test_logits_are_those_of_torch(packed, count):
    fast = with_native_step(packed)
    assert fast.native is not None
    prompt, steps = rows_of(count, 5), rows_of(count, 40)
    expected, given = logits_of(packed, prompt, steps), logits_of(fast, prompt, steps)
    assert torch.allclose(given, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@needs_compiler
def test_padding_is_not_seen(packed):
    if packed.places is not None and packed.norm == "rms":
        pytest.skip("pictures start at the same position")
    fast, pads = with_native_step(packed), torch.tensor([0, 1, 17, 30])
    prompt, steps = rows_of(4, 33), rows_of(4, 20)
    expected, given = logits_of(packed, prompt, steps, pads), logits_of(fast, prompt, steps, pads)
    assert torch.allclose(given, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@needs_compiler
def test_neither_threads_nor_other_rows_change_a_bit(packed, monkeypatch):
    monkeypatch.setattr(native, "BYTES_A_THREAD", 1)
    fast, prompt, steps = with_native_step(packed), rows_of(14, 5), rows_of(14, 20)
    _, state = fast.start(prompt, 25)
    _, others = fast.start(prompt, 25)
    chosen, before = torch.tensor([3, 11, 3]), torch.get_num_threads()
    others = fast.select(others, chosen)
    try:
        for token in steps.T:
            torch.set_num_threads(1)
            logits, state = fast.step(token, state)
            torch.set_num_threads(3)
            some, others = fast.step(token[chosen], others)
            assert some.equal(logits[chosen])
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_bf16_weights_are_those_of_the_copy(packed):
    """The step sums in fp32 what the weights in bf16 give: closer to fp32 on the same weights than torch's is."""
    half = with_native_step(in_bf16(llama().eval())._lean())
    assert half.native is not None
    prompt, steps = rows_of(3, 5), rows_of(3, 20)
    rounded = llama().eval()
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.copy_(weight.bfloat16())
        expected, given = logits_of(rounded._lean(), prompt, steps), logits_of(half, prompt, steps)
    assert torch.allclose(given, expected, atol=0.03 * float(expected.abs().max()), rtol=0)


@needs_compiler
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ids_are_the_same_with_ragged_prompts_that_end(name):
    model = MODELS[name]().eval()
    prompts = [row[: 3 + 2 * number] for number, row in enumerate(rows_of(9, 30))]
    plain = generate(model, prompts, 50, DecodingConfig(native=False), end_token=7)
    assert model._packed[1].native is None
    assert generate(model, prompts, 50, end_token=7).equal(plain)
    assert model._packed[1].native is not None


@needs_compiler
def test_what_has_no_place_is_refused(packed):
    fast = with_native_step(packed)
    _, state = fast.start(rows_of(2, 5), 6)
    with pytest.raises(IndexError, match=r"token ids \[1, 54\]: must be 0 to 5[23]"):
        fast.step(torch.tensor([1, 54]), state)
    while state.length < state.recent[0].shape[3]:
        _, state = fast.step(torch.tensor([1, 2]), state)
    with pytest.raises(IndexError, match="there is room for"):
        fast.step(torch.tensor([1, 2]), state)


FILTERS = [
    Filters(top_p=0.9),
    Filters(top_p=0.999),
    Filters(top_p=1e-6),
    Filters(top_k=1),
    Filters(top_k=50),
    Filters(top_k=10_000),
    Filters(min_p=0.05),
    Filters(min_p=1.0),
    Filters(temperature=0.7, top_k=50, top_p=0.9),
    Filters(temperature=3.0, top_p=0.95, min_p=1e-4),
    Filters(temperature=1e-35, top_p=0.9),
]


@needs_compiler
@pytest.mark.parametrize("kept", FILTERS, ids=str)
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_are_those_of_torch(kept, spread, dtype):
    """But for rounding where a number falls between two tokens, and for the order of equals, of which bf16 has many."""
    seeded = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 1000, generator=seeded) * spread).to(dtype)
    logits[:, ::3] = -torch.inf
    uniform = torch.rand(200, generator=seeded, dtype=torch.float64)
    left, ids = candidates(logits.float(), kept)
    expected = ids.gather(1, sample(left, uniform)[:, None])
    given = native.draw(logits, kept, uniform)[:, None]
    if dtype == torch.float32:
        assert (given == expected).double().mean() >= 0.98
    assert (logits.gather(1, given) == logits.gather(1, expected)).double().mean() >= 0.98
    assert (logits.gather(1, given) > -torch.inf).all()


@needs_compiler
def test_the_whole_range_of_numbers_draws_what_is_kept():
    logits = torch.tensor([[0.0, 1.0, 1.0, -5.0, -torch.inf]]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
    assert native.draw(logits, Filters(top_p=0.5), uniform).tolist() == [1, 2, 2]
    assert native.draw(logits, Filters(top_k=3), uniform).tolist() == [1, 2, 0]


@needs_compiler
def test_what_is_no_number_draws_a_token():
    logits, uniform = torch.full((2, 9), torch.nan), torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert native.draw(logits, Filters(top_p=0.5), uniform).tolist() == [0, 0]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty cache, and nothing known of earlier attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_library", cache(native._library.__wrapped__))
    return tmp_path / "hypergen"


def test_without_a_compiler_it_stays_as_it_is_and_says_so_once(empty, monkeypatch, capsys):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    monkeypatch.setattr(native.sys, "platform", "linux")
    model = llama().eval()
    for _ in range(2):
        assert generate(model, rows_of(2, 5), 4).shape == (2, 4)
        model.train()
    told = capsys.readouterr().err
    assert told.count("without native steps") == 1 and "no C++ compiler" in told


def test_elsewhere_nothing_is_compiled(empty, monkeypatch):
    monkeypatch.setattr(native.sys, "platform", "darwin")
    monkeypatch.setattr(native, "_load", lambda: pytest.fail("compiled"))
    packed = llama().eval()._lean()
    assert with_native_step(packed) is packed


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails_leaves_nothing(empty, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(NativeError, match=compiler):
        native._load()
    assert list(empty.iterdir()) == []


@needs_compiler
def test_it_is_compiled_once(empty, monkeypatch):
    native._load()
    (made,) = empty.iterdir()
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: pytest.fail("compiled again"))
    native._load()
    assert made.suffix == ".so" and empty.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_other_logits_are_not_used(monkeypatch, capsys):
    packed = llama().eval()._lean()
    real = NativeStep.__call__
    monkeypatch.setattr(NativeStep, "__call__", lambda *given: real(*given) + 1)
    assert with_native_step(packed) is packed
    assert "logits differ by" in capsys.readouterr().err


def test_a_model_with_other_weights_is_packed_again():
    model = llama().eval()
    prompt = rows_of(1, 5)
    before = generate(model, prompt, 20)
    with torch.no_grad():
        model.causal.lm_head.weight.neg_()
    after = generate(model, prompt, 20)
    assert not after.equal(before)
    assert after.equal(generate(model, prompt, 20, replace(DecodingConfig(), native=False)))
