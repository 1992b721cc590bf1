"""Pack the weights of small causal language models of the Llama and GPT-2 families for `kernels.packed_model`.

`packable` lists the configurations that this covers; `model.TextModel` checks once more that the packed weights give
the same logits on a few tokens.

Shape letters: D width, E width of a head, I inner width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedModel

from hypergen.kernels.packed_linear import DTYPES, PackedLinear
from hypergen.kernels.packed_model import PackedBlock, PackedModel
from hypergen.text.packable import GPT2_ACTIVATIONS, uncovered

MOST_BYTES = 2**29  # of weights that are copied; in a larger model arithmetic takes the time, not calls
MOST_POSITIONS = 2**20  # of a table of rotations
FEW_POSITIONS = 8  # of a sequence whose rotation is compared with that of the longest one


def pack_weights(causal: PreTrainedModel) -> PackedModel | None:
    """Copy the weights into a packed model; None where configuration, size or precision is not known to be covered."""
    if not _is_small(causal) or uncovered(causal) is not None:
        return None
    return _pack_gpt2(causal) if causal.config.model_type == "gpt2" else _pack_llama(causal)


def _is_small(causal: PreTrainedModel) -> bool:
    """Tell whether all weights are fp32, or all bf16, and few enough to be copied."""
    parameters = list(causal.parameters())
    dtypes = {parameter.dtype for parameter in parameters}
    is_plain = len(dtypes) == 1 and dtypes < set(DTYPES) and not any(parameter.is_meta for parameter in parameters)
    return is_plain and sum(parameter.nbytes for parameter in parameters) <= MOST_BYTES


def _pack_llama(causal: Any) -> PackedModel | None:
    """Pack a model of the Llama family; None where its rotation depends on the length of the sequence."""
    body, config = causal.model, causal.config
    if config.max_position_embeddings > MOST_POSITIONS:
        return None
    rotary = _rotary_table(body.rotary_emb, config.max_position_embeddings)
    of_few = _rotary_table(body.rotary_emb, min(FEW_POSITIONS, len(rotary)))
    if not torch.allclose(rotary[:FEW_POSITIONS], of_few):
        return None
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
        rotary=rotary,
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


@torch.no_grad()
def _rotary_table(rotary: Any, num_positions: int) -> Tensor:
    """Compute cosines and sines (positions, E / 2, 2) of a sequence of this length, by the model's own module."""
    positions = torch.arange(num_positions, device=rotary.inv_freq.device)[None]
    parts = rotary(rotary.inv_freq.float(), positions)  # of the first argument, only type and device matter
    return torch.stack([part[0, :, : part.shape[-1] // 2] for part in parts], -1)
