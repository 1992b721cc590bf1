"""Register `kernels.causal_attention` with transformers, for training; everything else remains its "sdpa".

`model.TextModel` selects it for every model that would run "sdpa".

Shape letters: B batch, H heads, G key-value heads, T tokens, L keys, E width of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hypergen.kernels.causal_attention import causal_attention, is_faster

NAME = "hypergen"


def use_causal_attention(causal: PreTrainedModel) -> None:
    """Select it, unless the model runs another implementation than "sdpa"."""
    if causal.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        causal.set_attn_implementation(NAME)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention under the signature of transformers: (B, H, T, E), twice (B, G, L, E) -> (B, T, H, E)."""
    given = others.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if given is None else given
    is_plain = attention_mask is None and others.get("position_bias") is None and not others.get("dropout")
    if is_causal and is_plain and query.shape[2:] == key.shape[2:] == value.shape[2:] and is_faster(query):
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return causal_attention(query, key, value, scale).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
