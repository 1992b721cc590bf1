"""Pack the weights of small causal language models of the Llama and GPT-2 families for `kernels.packed_model`.

`model.TextModel` checks that the packed weights give the same logits on a few tokens. A departure that shows only on
longer sequences, such as a sliding window, must be refused here.

Shape letters: D width, E width of a head, I inner width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hypergen.kernels.packed_linear import DTYPES, PackedLinear
from hypergen.kernels.packed_model import PackedBlock, PackedModel

MOST_BYTES = 2**29  # of weights that are copied; in a larger model arithmetic takes the time, not calls
LLAMAS = ("llama", "mistral", "qwen2")
GPT2_ACTIVATIONS = {"gelu_new": "tanh_gelu", "gelu_pytorch_tanh": "tanh_gelu", "silu": "silu", "swish": "silu"}
CHANGING_ROTARY = ("dynamic", "longrope")  # types whose frequencies depend on the length of the sequence


def pack_weights(causal: PreTrainedModel) -> PackedModel | None:
    """Copy the weights into a packed model; None where architecture, size or precision is not one that can be packed.

    A configuration that departs from its family in a way that shows at once, such as another activation, may come out
    wrong here.
    """
    if not _is_small(causal):
        return None
    if causal.config.model_type in LLAMAS and not _changes_with_length(causal):
        return _pack_llama(causal)
    is_gpt2 = causal.config.model_type == "gpt2" and causal.config.activation_function in GPT2_ACTIVATIONS
    return _pack_gpt2(causal) if is_gpt2 else None


def _is_small(causal: PreTrainedModel) -> bool:
    """Tell whether all weights are fp32, or all bf16, and few enough to be copied."""
    parameters = list(causal.parameters())
    dtypes = {parameter.dtype for parameter in parameters}
    is_plain = len(dtypes) == 1 and dtypes < set(DTYPES) and not any(parameter.is_meta for parameter in parameters)
    return is_plain and sum(parameter.nbytes for parameter in parameters) <= MOST_BYTES


def _changes_with_length(causal: Any) -> bool:
    """Tell whether a long sequence is computed in another way than the few tokens that are checked."""
    return _has_window(causal.config) or causal.model.rotary_emb.rope_type in CHANGING_ROTARY


def _has_window(config: PreTrainedConfig) -> bool:
    """Tell whether a layer attends to a sliding window that some sequence outgrows.

    Of these families only Qwen2 goes by `layer_types`; a Mistral with a window has it in every layer, and its modules
    do not say so (its attention has no `sliding_window`, only the mask does).
    """
    window = getattr(config, "sliding_window", None)
    if window is None or window >= config.max_position_embeddings:
        return False
    return config.model_type != "qwen2" or "sliding_attention" in config.layer_types


def _pack_llama(causal: Any) -> PackedModel:
    body, config = causal.model, causal.config
    first = body.layers[0].self_attn
    width, head_width = config.hidden_size, first.head_dim
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    gain = math.sqrt(width)

    def block(layer: Any) -> PackedBlock:
        attention, mlp = layer.self_attn, layer.mlp
        rotated = [_interleaved(projection, head_width) for projection in (attention.q_proj, attention.k_proj)]
        qkv, bias = _concatenated([*rotated, _weight_and_bias(attention.v_proj)])
        up, up_bias = _concatenated([_weight_and_bias(mlp.gate_proj), _weight_and_bias(mlp.up_proj)])
        return PackedBlock(
            qkv=PackedLinear((qkv * layer.input_layernorm.weight * gain).T, bias),
            out=_packed_linear(attention.o_proj),
            up=PackedLinear((up * layer.post_attention_layernorm.weight * gain).T, up_bias),
            down=_packed_linear(mlp.down_proj),
            scale=attention.scaling,
        )

    return PackedModel(
        embedding=body.embed_tokens.weight.detach(),
        blocks=[block(layer) for layer in body.layers],
        head=PackedLinear((causal.lm_head.weight * body.norm.weight * gain).T, causal.lm_head.bias),
        norm="rms",
        epsilon=config.rms_norm_eps,
        activation="silu",
        is_gated=True,
        num_heads=heads,
        num_groups=groups,
        head_width=head_width,
        rotary=_rotary_table(body.rotary_emb, config.max_position_embeddings),
    )


def _pack_gpt2(causal: Any) -> PackedModel:
    body, config = causal.transformer, causal.config
    width, heads = config.n_embd, config.n_head

    def block(layer: Any) -> PackedBlock:
        return PackedBlock(
            qkv=_after_norm(layer.ln_1, layer.attn.c_attn.weight, layer.attn.c_attn.bias),
            out=PackedLinear(layer.attn.c_proj.weight, layer.attn.c_proj.bias),
            up=_after_norm(layer.ln_2, layer.mlp.c_fc.weight, layer.mlp.c_fc.bias),
            down=PackedLinear(layer.mlp.c_proj.weight, layer.mlp.c_proj.bias),
            scale=(width // heads) ** -0.5,
        )

    return PackedModel(
        embedding=body.wte.weight.detach(),
        position_embedding=body.wpe.weight.detach(),
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


def _weight_and_bias(linear: Any) -> tuple[Tensor, Tensor | None]:
    return linear.weight, linear.bias


def _interleaved(linear: Any, head_width: int) -> tuple[Tensor, Tensor | None]:
    """Reorder the rows of each head in weight and bias, so that the two halves that rotate together are neighbours."""
    rows = torch.arange(linear.weight.shape[0], device=linear.weight.device)
    order = rearrange(rows, "(heads halves pairs) -> (heads pairs halves)", halves=2, pairs=head_width // 2)
    return linear.weight[order], None if linear.bias is None else linear.bias[order]


def _concatenated(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Stack weights and biases of products with one input; a missing bias among others is zero."""
    weights, biases = zip(*parts, strict=True)
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    return torch.cat(weights), torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts])


def _packed_linear(linear: Any) -> PackedLinear:
    return PackedLinear(linear.weight.T, linear.bias)


def _after_norm(norm: Any, weight: Tensor, bias: Tensor | None) -> PackedLinear:
    """Fold gain and bias of a layer norm into the product (I, O) that follows it."""
    shift = norm.bias @ weight
    return PackedLinear(norm.weight[:, None] * weight, shift if bias is None else shift + bias)


def _rotary_table(rotary: Any, num_positions: int) -> Tensor:
    """Compute cosines and sines (positions, E / 2, 2) from the model's own frequencies and scaling."""
    angles = torch.outer(torch.arange(num_positions, device=rotary.inv_freq.device).float(), rotary.inv_freq.float())
    return torch.stack([angles.cos(), angles.sin()], -1) * rotary.attention_scaling
