"""Compute causal attention for training on a processor with bf16 units, where torch's kernel is slow.

torch's CPU kernel takes 10 ms for the forward and backward pass of 8 x 256 tokens in bf16, more than in fp32; batched
products over blocks of rows take 4 (8 x 5 heads of width 32, measured on two Zen 5 cores). Below the diagonal only the
blocks that a row can see are computed. The probabilities are kept for the backward pass, which is why long sequences,
fp32 and other devices stay with torch.

Shape letters: B batch, H heads, G key-value heads, T tokens, E width of a head, M = B * H.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LONGEST = 512  # tokens; beyond it torch's kernel is as fast and keeps nothing of size T * T


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend from each token to itself and earlier ones: (B, H, T, E), twice (B, G, T, E) -> (B, H, T, E).

    H is a multiple of G. Equal to `F.scaled_dot_product_attention` (`is_causal`, `enable_gqa`) up to rounding.
    """
    if not is_faster(queries):
        is_grouped = keys.shape[1] < queries.shape[1]
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=is_grouped)
    repeats = queries.shape[1] // keys.shape[1]
    parts = (queries, keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1))
    flat = [part.to(torch.bfloat16).reshape(-1, *part.shape[2:]) for part in parts]
    return _Causal.apply(*flat, scale).view(queries.shape)


def is_faster(queries: Tensor) -> bool:
    """Tell whether queries (B, H, T, E) belong to a training step that the blocks below compute faster than torch."""
    is_bf16 = queries.device.type == "cpu" and (
        queries.dtype == torch.bfloat16
        or (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
    )
    return is_bf16 and torch.is_grad_enabled() and 1 < queries.shape[2] <= LONGEST


class _Causal(torch.autograd.Function):
    """Attend with queries, keys, values (M, T, E) in bf16 -> (M, T, E); scores and their softmax are fp32."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        queries = queries * scale
        attended, saved = torch.empty_like(queries), []
        blocks = _blocks(queries.shape[1])
        later = torch.full((blocks[0][1],) * 2, -math.inf, device=queries.device).triu(1)
        for first, end in blocks:
            scores = torch.bmm(queries[:, first:end], keys[:, :end].mT).float()
            scores[:, :, first:] += later[: end - first, : end - first]
            probabilities = scores.softmax(-1).to(queries.dtype)
            attended[:, first:end] = torch.bmm(probabilities, values[:, :end])
            saved.append(probabilities)
        ctx.scale = scale
        ctx.save_for_backward(queries, keys, values, attended, *saved)
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        queries, keys, values, attended, *saved = ctx.saved_tensors
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        # the softmax's own derivative subtracts the same sum from all of a row's scores
        rows = (gradient * attended).sum(-1, keepdim=True, dtype=torch.float32)
        for (first, end), probabilities in zip(_blocks(queries.shape[1]), saved, strict=True):
            d_values[:, :end] += torch.bmm(probabilities.mT, gradient[:, first:end])
            scores = torch.bmm(gradient[:, first:end], values[:, :end].mT).float()
            scores = scores.sub_(rows[:, first:end]).mul_(probabilities).to(queries.dtype)
            d_queries[:, first:end] = torch.bmm(scores, keys[:, :end])
            d_keys[:, :end] += torch.bmm(scores.mT, queries[:, first:end])
        return d_queries.mul_(ctx.scale), d_keys, d_values, None


def _blocks(length: int) -> list[tuple[int, int]]:
    """Cut the rows into blocks of 32 to 64, a quarter of the sequence (measured at 64 and 256 tokens)."""
    size = min(64, max(32, length // 4))
    return [(first, min(first + size, length)) for first in range(0, length, size)]
