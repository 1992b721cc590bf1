"""`hypergen.attention` as an attention implementation of transformers, for training; everything else is its "sdpa".

Does not know: which models use it (`model.TextModel` sets it where "sdpa" was set), training.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hypergen.attention import causal_attention, is_faster

NAME = "hypergen"


def use(causal: PreTrainedModel) -> None:
    """Set it, unless the model runs another implementation than "sdpa"."""
    if causal.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        causal.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The signature of transformers: (B, H, T, E), twice (B, G, L, E) -> (B, T, H, E)."""
    asked = others.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if asked is None else asked
    is_plain = attention_mask is None and others.get("position_bias") is None and not others.get("dropout")
    if is_causal and is_plain and query.shape[2:] == key.shape[2:] == value.shape[2:] and is_faster(query):
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return causal_attention(query, key, value, scale).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
