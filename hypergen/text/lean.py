"""Causal language models of the Llama and GPT-2 families, packed for `hypergen.lean`.

Does not know: prompts, strategies, whether the packed model gives the same logits (`model.TextModel` checks).

Shape letters: D width, E width of a head, I inner width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hypergen.lean import LeanBlock, LeanModel, Product, is_small

LLAMAS = ("llama", "mistral", "qwen2")
GPT2_ACTIVATIONS = {"gelu_new": "tanh_gelu", "gelu_pytorch_tanh": "tanh_gelu", "silu": "silu", "swish": "silu"}
CHANGING_ROTATIONS = ("dynamic", "longrope")  # whose frequencies depend on how long the sequence is


def pack(causal: PreTrainedModel) -> LeanModel | None:
    """A packed copy of the weights; None where the architecture, its size or its precision is another.

    A configuration that departs from its family in a way that shows at once, such as another activation, may come out
    wrong here.
    """
    if not is_small(causal):
        return None
    if causal.config.model_type in LLAMAS and not _changes_with_length(causal):
        return _pack_llama(causal)
    is_gpt2 = causal.config.model_type == "gpt2" and causal.config.activation_function in GPT2_ACTIVATIONS
    return _pack_gpt2(causal) if is_gpt2 else None


def _changes_with_length(causal: Any) -> bool:
    has_window = any(getattr(layer.self_attn, "sliding_window", None) for layer in causal.model.layers)
    return has_window or causal.model.rotary_emb.rope_type in CHANGING_ROTATIONS


def _pack_llama(causal: Any) -> LeanModel:
    body, config = causal.model, causal.config
    first = body.layers[0].self_attn
    width, head_width = config.hidden_size, first.head_dim
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    gain = math.sqrt(width)

    def block(layer: Any) -> LeanBlock:
        attention, mlp = layer.self_attn, layer.mlp
        turned = [_neighbours(projection, head_width) for projection in (attention.q_proj, attention.k_proj)]
        attend, bias = _joined([*turned, _parts(attention.v_proj)])
        widen, widen_bias = _joined([_parts(mlp.gate_proj), _parts(mlp.up_proj)])
        return LeanBlock(
            attend=Product((attend * layer.input_layernorm.weight * gain).T, bias),
            mix=_product(attention.o_proj),
            widen=Product((widen * layer.post_attention_layernorm.weight * gain).T, widen_bias),
            narrow=_product(mlp.down_proj),
            scale=attention.scaling,
        )

    return LeanModel(
        embedding=body.embed_tokens.weight.detach(),
        blocks=[block(layer) for layer in body.layers],
        head=Product((causal.lm_head.weight * body.norm.weight * gain).T, causal.lm_head.bias),
        norm="rms",
        epsilon=config.rms_norm_eps,
        activation="silu",
        is_gated=True,
        num_heads=heads,
        num_groups=groups,
        head_width=head_width,
        rotation=_rotation(body.rotary_emb, config.max_position_embeddings),
    )


def _pack_gpt2(causal: Any) -> LeanModel:
    body, config = causal.transformer, causal.config
    width, heads = config.n_embd, config.n_head

    def block(layer: Any) -> LeanBlock:
        return LeanBlock(
            attend=_after_norm(layer.ln_1, layer.attn.c_attn.weight, layer.attn.c_attn.bias),
            mix=Product(layer.attn.c_proj.weight, layer.attn.c_proj.bias),
            widen=_after_norm(layer.ln_2, layer.mlp.c_fc.weight, layer.mlp.c_fc.bias),
            narrow=Product(layer.mlp.c_proj.weight, layer.mlp.c_proj.bias),
            scale=(width // heads) ** -0.5,
        )

    return LeanModel(
        embedding=body.wte.weight.detach(),
        places=body.wpe.weight.detach(),
        blocks=[block(layer) for layer in body.h],
        head=_after_norm(body.ln_f, causal.lm_head.weight.T, causal.lm_head.bias),
        norm="layer",
        epsilon=config.layer_norm_epsilon,
        activation=GPT2_ACTIVATIONS[config.activation_function],
        is_gated=False,
        num_heads=heads,
        num_groups=heads,
        head_width=width // heads,
    )


def _parts(linear: Any) -> tuple[Tensor, Tensor | None]:
    return linear.weight, linear.bias


def _neighbours(linear: Any, head_width: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with each head's rows reordered: the two halves that rotate together become neighbours."""
    order = torch.arange(linear.weight.shape[0], device=linear.weight.device)
    order = order.view(-1, 2, head_width // 2).transpose(1, 2).flatten()
    return linear.weight[order], None if linear.bias is None else linear.bias[order]


def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    weights, biases = zip(*parts, strict=True)
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    return torch.cat(weights), torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts])


def _product(linear: Any) -> Product:
    return Product(linear.weight.T, linear.bias)


def _after_norm(norm: Any, weight: Tensor, bias: Tensor | None) -> Product:
    """A product (I, O) that takes what a layer norm gives before gain and bias."""
    shift = norm.bias @ weight
    return Product(norm.weight[:, None] * weight, shift if bias is None else shift + bias)


def _rotation(rotary: Any, num_positions: int) -> Tensor:
    """(positions, E / 2, 2), from the model's own frequencies and scaling."""
    angles = torch.outer(torch.arange(num_positions, device=rotary.inv_freq.device).float(), rotary.inv_freq.float())
    return torch.stack([angles.cos(), angles.sin()], -1) * rotary.attention_scaling
