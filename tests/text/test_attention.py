"""Our attention in models of transformers: their numbers in fp32, our kernel in bf16 training.

Alone: pytest tests/text/test_attention.py
"""

from __future__ import annotations

import copy

import pytest
import torch

from hypergen.kernels.causal_attention import causal_attention
from hypergen.text import attention
from hypergen.text.attention import NAME, use_causal_attention
from tests.text import tiny


@pytest.fixture
def calls(monkeypatch):
    """The shapes of queries that our kernel computes."""
    shapes = []
    monkeypatch.setattr(
        attention, "causal_attention", lambda *parts: shapes.append(parts[0].shape) or causal_attention(*parts)
    )
    return shapes


def selected(kind: str):
    causal = copy.deepcopy(tiny.causal(kind))
    use_causal_attention(causal)
    return causal


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_fp32_logits_are_those_of_sdpa(kind, calls):
    theirs, ours = tiny.causal(kind), selected(kind)
    expected, found = theirs(input_ids=tiny.tokens()).logits, ours(input_ids=tiny.tokens()).logits
    usual = theirs.config._attn_implementation  # gemma2 has a soft cap, which only "eager" computes
    assert ours.config._attn_implementation == (NAME if usual == "sdpa" else usual)
    assert found.equal(expected) and calls == []


def test_another_implementation_is_left_alone():
    causal = copy.deepcopy(tiny.causal("llama"))
    causal.set_attn_implementation("eager")
    use_causal_attention(causal)
    assert causal.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_training_in_bf16_goes_through_our_kernel(kind, calls):
    theirs, ours = tiny.causal(kind), selected(kind)
    gradients = []
    for causal in (theirs, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            causal(input_ids=tiny.tokens()).logits.float().logsumexp(-1).sum().backward()
        gradients.append(causal.get_input_embeddings().weight.grad)
    assert len(calls) == 4  # blocks
    assert (gradients[0] - gradients[1]).norm() <= 0.02 * gradients[0].norm()


def test_a_mask_goes_to_transformers(calls):
    causal = selected("llama")
    mask = torch.ones(3, 24, dtype=torch.long)
    mask[0, :3] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        causal(input_ids=tiny.tokens(), attention_mask=mask).logits.sum().backward()
    assert calls == []


def test_a_step_with_a_cache_goes_to_transformers(calls):
    causal = selected("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        first = causal(input_ids=tiny.tokens(), use_cache=True)
        causal(input_ids=tiny.tokens(3, 1), cache=first.cache)
    assert calls == []
