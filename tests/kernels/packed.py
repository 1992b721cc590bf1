"""Small models of several architectures, packed, for the tests of kernels.

Shape letters: B batch, P prompt, S steps, V vocabulary.
"""

import shutil
import sys
from functools import cache

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hypergen.image import transformer
from hypergen.image.transformer import ImageTransformer, TransformerConfig, new_transformer
from hypergen.kernels import native_library
from hypergen.kernels.packed_model import PackedModel
from hypergen.text import packing

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler"
)
NUM_TOKENS = 53


def _llama(**other):
    shape = dict(hidden_size=40, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4)
    return LlamaForCausalLM(
        LlamaConfig(max_position_embeddings=128, vocab_size=NUM_TOKENS, attn_implementation="sdpa", **(shape | other))
    )


def _gpt2():
    shape = dict(n_embd=48, n_layer=2, n_head=2, n_positions=128, activation_function="gelu_new")
    return GPT2LMHeadModel(GPT2Config(vocab_size=NUM_TOKENS, bos_token_id=0, eos_token_id=0, **shape))


def _pictures():
    return new_transformer(
        TransformerConfig(num_codes=NUM_TOKENS, num_positions=128, width=64, num_layers=2, num_heads=2), 0
    )


MODULES = {
    "llama": _llama,
    "llama, few keys": lambda: _llama(num_key_value_heads=2),
    "llama, wide heads": lambda: _llama(head_dim=72),
    "llama, biases": lambda: _llama(attention_bias=True, mlp_bias=True),
    "gpt2": _gpt2,
    "pictures": _pictures,
}


@torch.no_grad()
def new_module(name: str) -> nn.Module:
    """Make a model whose norms and biases differ from 1 and 0."""
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    for weight in module.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
    return module


@torch.no_grad()
def pack(module: nn.Module) -> PackedModel:
    return transformer.pack_weights(module) if isinstance(module, ImageTransformer) else packing.pack_weights(module)


def rows_of(count: int, length: int) -> torch.Tensor:
    """(B, T) ids."""
    return torch.randint(50, (count, length), generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def logits_of(model: PackedModel, prompt, steps, num_padding=None, *, native=False):
    """(S, B, V) after each of these ids (B, S), the prompt (B, P) computed by torch in any case."""
    _, kv_cache = model.prefill(prompt, prompt.shape[1] + steps.shape[1], num_padding, native=native)
    assert kv_cache.is_native == native
    given = []
    for token in steps.T:
        logits, kv_cache = model.decode_step(token, kv_cache)
        given.append(logits.float())
    return torch.stack(given)


def forget_native_library(monkeypatch) -> None:
    """Let the library be tried anew in this test, and only in it."""
    monkeypatch.setattr(native_library, "_library_or_reason", cache(native_library._library_or_reason.__wrapped__))
