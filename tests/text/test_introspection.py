"""Blocks, final modules and context of any architecture. Alone: pytest tests/text/test_introspection.py"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hypergen.text import introspection
from hypergen.text.introspection import UNLIMITED_CONTEXT, find_blocks, inspect_model
from hypergen.text.model import TextModel
from tests.text import tiny

BLOCKS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
FINAL = {  # final norm, and the head where it is not tied
    "llama": ("model.norm", "lm_head"),
    "qwen2": ("model.norm", "lm_head"),
    "qwen3": ("model.norm", "lm_head"),
    "gpt2": ("transformer.ln_f",),
    "gpt_neox": ("gpt_neox.final_layer_norm", "lm_head"),
    "gemma2": ("model.norm",),
    "gemma3_text": ("model.norm",),
}


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_layout(kind):
    causal = tiny.causal(kind)
    layout = inspect_model(causal, lambda: causal(input_ids=tiny.tokens()))
    assert layout.blocks == find_blocks(causal) == BLOCKS.get(kind, "model.layers")
    if kind in FINAL:
        assert layout.final_modules == FINAL[kind]
    last = causal.get_submodule(layout.blocks)[-1]
    outputs = []
    last.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    causal(input_ids=tiny.tokens())
    assert layout.block_outputs == (len(outputs[0]) if isinstance(outputs[0], tuple) else 0)


def test_a_forward_that_does_not_reach_the_blocks_has_none():
    causal = tiny.causal("llama")
    layout = inspect_model(causal, lambda: None)
    assert (layout.blocks, layout.final_modules) == (None, ("lm_head",))
    causal.config.num_hidden_layers = 9  # no list is as long
    assert find_blocks(causal) is None


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_final_modules_are_the_norm_and_an_untied_head(kind):
    model = TextModel(tiny.causal(kind))
    tied = model.causal.get_output_embeddings().weight is model.causal.get_input_embeddings().weight
    heads = [module for module in model.final_modules if module is model.causal.get_output_embeddings()]
    assert len(heads) == (0 if tied else 1)
    norms = [module for module in model.final_modules if "norm" in type(module).__name__.lower()]
    assert len(norms) == 1 or model.causal.config.model_type == "opt"


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_nothing_random_is_left(kind):
    model = TextModel(tiny.causal(kind)).train()
    with torch.no_grad():
        assert torch.equal(model(tiny.tokens()), model(tiny.tokens()))
        assert torch.equal(model(tiny.tokens()), model.eval()(tiny.tokens()))
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


def test_randomness_of_the_configuration_goes_too():
    causal = tiny.causal("gpt2", resid_pdrop=0.3, embd_pdrop=0.2, attn_pdrop=0.1)
    assert any(module.p for module in causal.modules() if isinstance(module, nn.Dropout))
    introspection.disable_randomness(causal)
    assert causal.config.resid_pdrop == causal.config.embd_pdrop == causal.config.attn_pdrop == 0
    assert not any(module.p for module in causal.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("kind", "changes", "length"),
    [
        ("llama", {}, tiny.CONTEXT),
        ("gpt2", {}, tiny.CONTEXT),
        ("gemma2", {}, tiny.CONTEXT),  # its window of 8 does not limit a sequence
        ("llama", {"max_position_embeddings": 7}, 7),
    ],
    ids=str,
)
def test_context_length(kind, changes, length):
    assert introspection.context_length(tiny.config(kind, **changes)) == length


def test_a_configuration_without_context_does_not_limit_it():
    config = tiny.config("bloom")
    for name in introspection.CONTEXT_FIELDS:
        if name in vars(config):
            delattr(config, name)
    assert introspection.context_length(config) == UNLIMITED_CONTEXT


def test_scaled_logits():
    for kind, change in (("cohere", {"logit_scale": 0.3}), ("granite", {"logits_scaling": 3.0})):
        causal = tiny.causal(kind, **change)
        model = TextModel(copy.deepcopy(causal))
        with torch.no_grad():
            expected = causal(input_ids=tiny.tokens()).logits
            torch.testing.assert_close(model(tiny.tokens()), expected, rtol=1e-5, atol=1e-5)
        assert not model._full_logits


def test_a_soft_cap_is_part_of_the_logits():
    transform = introspection.logit_transform(tiny.causal("gemma2"))  # capped at 2
    logits = torch.tensor([-100.0, 0.0, 1.0, 100.0])
    torch.testing.assert_close(transform(logits), 2 * torch.tanh(logits / 2))
    assert introspection.logit_transform(tiny.causal("llama"))(logits) is logits


def test_an_id_that_equals_the_padding_id_is_not_looked_for():
    causal = tiny.causal("llama")
    introspection.silence_padding_warning(causal)
    assert causal.warn_if_padding_and_no_attention_mask(torch.zeros(1, 2), None) is None
    assert causal.model.warn_if_padding_and_no_attention_mask(torch.zeros(1, 2), None) is None
