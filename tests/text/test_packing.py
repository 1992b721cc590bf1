"""Packed weights give the ids of the model they come from, or are refused. Alone: pytest tests/text/test_packing.py"""

from __future__ import annotations

import copy

import pytest
import torch

from hypergen import testing as contract
from hypergen.errors import InputError
from hypergen.kernels import packed_model
from hypergen.text import packing
from hypergen.text.model import TextModel
from hypergen.text.packing import pack_weights
from tests.text import tiny

PACKED = ("llama", "qwen2", "gpt2")
WINDOW = 8


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_common_architectures_are_packed(kind):
    assert TextModel(tiny.causal(kind)).supports_left_padding == (kind in PACKED)


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_contract_of_a_cache_beyond_the_processors(kind, monkeypatch):
    monkeypatch.setattr(packed_model, "LARGE_CACHE", 0)
    monkeypatch.setattr(packed_model, "RECENT", 5)  # so that several move within one completion
    contract.check_model(TextModel(tiny.causal(kind)), tiny.tokens())


@pytest.mark.parametrize("kind", [*PACKED, "mistral"])
def test_packed_weights_alone_give_the_logits_of_transformers(kind):
    causal, tokens = tiny.causal(kind, **({"sliding_window": None} if kind == "mistral" else {})), tiny.tokens(3, 40)
    packed = pack_weights(causal)
    logits, kv_cache = packed.prefill(tokens[:, :20], 40)
    for position in range(20, 40):
        expected = causal(input_ids=tokens[:, :position]).logits[:, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        logits, kv_cache = packed.decode_step(tokens[:, position], kv_cache)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_packed_copy_follows_the_weights(kind):
    model, tokens = TextModel(tiny.causal(kind)).eval(), tiny.tokens()
    before, _ = model.prefill(tokens, 1)
    with torch.no_grad():
        for weight in model.blocks[0].parameters():
            weight.mul_(1.5)
        expected = model(tokens)[:, -1]
    after, _ = model.prefill(tokens, 1)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"attention_bias": True, "mlp_bias": True},
    ],
    ids=str,
)
def test_departures_from_a_family_still_decode_right(changes):
    contract.check_model(TextModel(tiny.causal("llama", **changes)), tiny.tokens())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": WINDOW}),
        ("qwen2", {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 2}),
    ],
    ids=["mistral", "qwen2"],
)
def test_a_sliding_window_gives_the_ids_of_transformers(kind, changes):
    """The prompt is longer than the window, so attention to all of it would give other ids."""
    causal, prompt = tiny.causal(kind, **changes), tiny.tokens(4, 27)
    model = TextModel(copy.deepcopy(causal)).eval()
    assert pack_weights(causal) is None and not model.supports_left_padding
    assert tiny.greedy_ids(model, prompt, 30) == tiny.transformers_ids(causal, prompt, 30)
    contract.check_model(model, tiny.tokens())
    everything = TextModel(tiny.causal(kind)).eval()  # the same weights without a window
    everything.load_state_dict(model.state_dict())
    assert tiny.greedy_ids(everything, prompt, 30) != tiny.greedy_ids(model, prompt, 30)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": tiny.CONTEXT}),  # no sequence outgrows it
        ("qwen2", {"sliding_window": WINDOW, "use_sliding_window": False}),
        ("qwen2", {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 4}),  # in no layer
    ],
    ids=str,
)
def test_without_a_window_that_counts_weights_are_packed(kind, changes):
    causal, prompt = tiny.causal(kind, **changes), tiny.tokens(4, 27)
    model = TextModel(copy.deepcopy(causal)).eval()
    assert model.supports_left_padding
    assert tiny.greedy_ids(model, prompt, 30) == tiny.transformers_ids(causal, prompt, 30)


def test_a_large_model_is_not_copied(monkeypatch):
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    model = TextModel(tiny.causal("llama"))
    assert not model.supports_left_padding
    with pytest.raises(InputError, match="cannot start from padded prompts"):
        model.prefill(tiny.tokens(), 1, torch.zeros(3, dtype=torch.long))


def test_weights_of_mixed_precision_are_not_packed():
    causal = tiny.causal("llama")
    assert pack_weights(causal.bfloat16()) is not None
    causal.model.norm.float()
    assert pack_weights(causal) is None


def test_packed_weights_are_a_copy():
    causal = tiny.causal("gpt2")
    packed, tokens = pack_weights(causal), tiny.tokens()
    before, _ = packed.prefill(tokens, 24)
    with torch.no_grad():
        for block in causal.transformer.h:
            block.mlp.c_fc.weight.zero_()
    assert packed.prefill(tokens, 24)[0].equal(before)
