"""Decode a small transformer through packed weights, in as few tensor operations as possible.

At a few million parameters a step's time goes into calling operations, not into arithmetic. Here a block is two norms,
four products with weights laid out for the number of rows, one rotation, one write to the cache and one attention.
Norm gains are folded into the products that follow them, so numbers differ from the module's by rounding only; the
caller that packs a model checks this. Keys and values of many short rows that outgrow a processor's caches are kept
without gaps: read as one run, they come three times as fast as from a buffer that is partly filled (measured).

Shape letters: B batch, T tokens, P prompt, L cached tokens, C capacity of a cache, D width, H query heads, G key-value
heads, E width of a head, R = H / G, I width inside the MLP, V vocabulary, M rows of a product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.kernels.packed_linear import PackedLinear

LARGE_CACHE = 8 * 2**20  # bytes of keys and values that processors' caches hold; larger ones are kept without gaps
RECENT = 32  # tokens after which those of a large cache move together
SHORT_RUN = 64 * 2**10  # bytes of one head's keys; gaps between longer ones do not matter
LARGE_MODEL = 16 * 2**20  # bytes of weights that one thread does not read fast enough
ROWS_FOR_THREADS = 4  # from here on several threads are faster (measured)


def quick_gelu(inner: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x), the approximation of GELU that ImageGPT was trained with."""
    return inner * torch.sigmoid(1.702 * inner)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "tanh_gelu": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


@dataclass(frozen=True, kw_only=True)
class PackedBlock:
    """Hold the products of one block; those that follow a norm have its gain in them."""

    qkv: PackedLinear
    """D -> (H + 2 G) E: queries, keys, values."""
    out: PackedLinear
    """H E -> D, the projection after attention."""
    up: PackedLinear
    """D -> I, or 2 I where the MLP is gated: gates first."""
    down: PackedLinear
    """I -> D."""
    scale: float
    """Factor of the attention scores."""


@dataclass(frozen=True)
class PackedCache:
    """Hold the keys and values of `length` tokens, in two parts for each block. A step uses a cache up."""

    prefix_kv: list[Tensor]
    """(2, B, G, L, E), all filled; (2, B, G, 0, E) where the recent part has the capacity for everything."""
    recent_kv: list[Tensor]
    """(2, B, G, C, E), filled as far as `length` goes beyond the prefix part."""
    length: int
    num_padding: Tensor | None
    """(B,) padding ids before each prompt; None: none anywhere."""
    mask: Tensor | None
    """(B, 1, 1, C), added to attention scores: -inf where a row is padding."""
    is_native: bool = False
    """Laid out by `StepBackend.arrange`, with an empty prefix part."""


class StepBackend(Protocol):
    """Takes the place of torch in a decoding step: the layout of a cache, and the step over it."""

    def arrange(self, parts: Tensor, capacity: int) -> Tensor:
        """Lay out keys and values (2, B, G, P, E) for `__call__`: -> (2, B, G, C, E), C at least `capacity`."""
        ...

    def __call__(self, token: Tensor, kv_cache: PackedCache) -> Tensor:
        """Decode one token: (B,) ids -> logits (B, V) in fp32; the recent part of the cache takes the token."""
        ...


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """Describe a decoder-only transformer whose blocks normalize before attention and before the MLP, and run it."""

    embedding: Tensor
    """(ids, D)."""
    position_embedding: Tensor | None = None
    """(positions, D), added to the embedding; None: queries and keys are rotated."""
    blocks: Sequence[PackedBlock]
    head: PackedLinear
    norm: Literal["rms", "layer"]
    """Without gain and bias; see `_normalize`."""
    epsilon: float
    activation: str
    """A name in ACTIVATIONS."""
    is_gated: bool
    """Whether `up` gives gates (M, I), which are activated, and the factors that they scale (M, I)."""
    num_heads: int
    num_groups: int
    head_width: int
    rotary: Tensor | None = None
    """(positions, E / 2, 2), cosines and sines that rotate neighbouring pairs; None: positions are embedded."""
    native: StepBackend | None = None
    """The step in native code, for caches made with `prefill(..., native=True)`."""

    @cached_property
    def nbytes(self) -> int:
        """Count the bytes of weights that a step reads."""
        products = [self.head, *(p for b in self.blocks for p in (b.qkv, b.out, b.up, b.down))]
        return sum(product.weight.nbytes for product in products)

    def prefill(
        self, prompt: Tensor, capacity: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, PackedCache]:
        """Compute the prompt: (B, P) ids -> logits (B, V) of the next id, and a cache of the prefix.

        Only attention sees padding, everything else runs on the ids alone.

        Args:
            prompt: ids, those of padding included.
            capacity: tokens that there will be, P or more.
            num_padding: (B,), how many ids at the beginning of each row are padding.
            native: lay the cache out for the native step, where the model has one.
        """
        batch, length = prompt.shape
        shifts = prompt.new_zeros(batch) if num_padding is None else num_padding
        positions = torch.arange(length, device=prompt.device) - shifts[:, None]
        tokens_at = None if num_padding is None else (positions.flatten() >= 0).nonzero().squeeze(1)
        dtype = self.head.weight.dtype
        mask = None if num_padding is None else _causal_mask(num_padding, length).to(dtype)
        positions = _take_rows(positions.flatten(), tokens_at)
        hidden, rotary = self._embed(_take_rows(prompt.flatten(), tokens_at), positions), self._rotary_at(positions)
        parts = []
        for block in self.blocks:
            heads = _spread_rows(self._project(block, hidden, rotary), tokens_at, batch * length)
            heads = heads.view(batch, length, -1, self.head_width).transpose(1, 2)
            queries, keys, values = heads.split([self.num_heads, self.num_groups, self.num_groups], 1)
            parts.append(torch.stack([keys, values]))
            attended = F.scaled_dot_product_attention(
                queries, keys, values, mask, 0.0, mask is None,
                scale=block.scale, enable_gqa=self.num_groups < self.num_heads,
            )  # fmt: skip
            attended = attended.transpose(1, 2).reshape(batch * length, -1)
            hidden = self._finish_block(block, hidden, _take_rows(attended, tokens_at))
        ends = torch.arange(1, batch + 1, device=prompt.device) * length
        ends = ends - 1 if num_padding is None else ends - 1 - num_padding.cumsum(0)
        logits = self.head(self._normalize(hidden[ends]))
        if native and self.native is not None:
            return logits, _native_cache(parts, capacity, num_padding, self.native)
        padding = None if num_padding is None else _padding_mask(num_padding, capacity).to(dtype)
        return logits, _new_cache(parts, capacity, num_padding, padding)

    def decode_step(self, token: Tensor, kv_cache: PackedCache) -> tuple[Tensor, PackedCache]:
        """Decode one token: (B,) ids -> logits (B, V) of the next id, and a cache one longer over the same memory.

        Raises:
            IndexError: a native cache is full, or an id is not in the vocabulary.
        """
        if kv_cache.is_native:
            assert self.native is not None
            self._require_capacity(kv_cache)
            return self.native(token, kv_cache), replace(kv_cache, length=kv_cache.length + 1)
        kv_cache = _with_capacity(kv_cache)
        with _enough_threads(self, token):
            logits = self._advance(token, kv_cache)
        return logits, replace(kv_cache, length=kv_cache.length + 1)

    def _require_capacity(self, kv_cache: PackedCache) -> None:
        """Refuse a token that has no place: the native step would write past the end."""
        tables = [len(table) for table in (self.rotary, self.position_embedding) if table is not None]
        capacity = min([kv_cache.recent_kv[0].shape[3], *tables])
        if kv_cache.length >= capacity:
            raise IndexError(f"token {kv_cache.length + 1}: there is room for {capacity}")

    def _advance(self, token: Tensor, kv_cache: PackedCache) -> Tensor:
        """Compute (B,) ids -> logits (B, V) with torch; the recent part of the cache takes the new token."""
        length, filled = kv_cache.length, kv_cache.length - kv_cache.prefix_kv[0].shape[3]
        positions = (
            torch.tensor([length], device=token.device)
            if kv_cache.num_padding is None
            else length - kv_cache.num_padding
        )
        mask = None if kv_cache.mask is None else kv_cache.mask[..., : length + 1]
        batch = len(token)
        hidden, rotary = self._embed(token, positions), self._rotary_at(positions)
        num_queries = self.num_heads * self.head_width
        query_shape = batch, self.num_groups, self.num_heads // self.num_groups, self.head_width
        kv_shape = batch, 2, self.num_groups, self.head_width
        for block, prefix, recent in zip(self.blocks, kv_cache.prefix_kv, kv_cache.recent_kv, strict=True):
            qkv = self._project(block, hidden, rotary)
            recent.narrow(3, filled, 1).squeeze(3).copy_(qkv[:, num_queries:].view(kv_shape).transpose(0, 1))
            queries = qkv[:, :num_queries].view(query_shape)  # those of a group are its rows
            attended = _attend(queries, prefix, recent.narrow(3, 0, filled + 1), mask, block.scale)
            hidden = self._finish_block(block, hidden, attended.reshape(batch, -1))
        return self.head(self._normalize(hidden))

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embed ids (M,) at positions that broadcast to them: -> (M, D), a new tensor."""
        embedded = F.embedding(ids, self.embedding)
        if self.position_embedding is None:
            return embedded
        return embedded + F.embedding(positions, self.position_embedding)

    def _normalize(self, hidden: Tensor) -> Tensor:
        """Normalize (M, D) without gain and bias; RMS norm leaves out the factor sqrt(D), too, which is in the gain."""
        if self.norm == "layer":
            return F.layer_norm(hidden, hidden.shape[-1:], eps=self.epsilon)
        return hidden / torch.hypot(torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), self._floor)

    @cached_property
    def _floor(self) -> Tensor:
        return self.embedding.new_tensor(math.sqrt(self.embedding.shape[1] * self.epsilon))

    def _activate(self, inner: Tensor) -> Tensor:
        """Turn the output of `up` into the input of `down`, (M, I)."""
        activation = ACTIVATIONS[self.activation]
        if not self.is_gated:
            return activation(inner)
        gate, up = inner.chunk(2, -1)
        return activation(gate).mul_(up)

    @staticmethod
    def select_rows(kv_cache: PackedCache, rows: Tensor) -> PackedCache:
        """Keep these rows (B',) of a cache, repeats allowed; the given one is left as it was."""
        prefix_kv, recent_kv = (
            [part.index_select(1, rows) for part in parts] for parts in (kv_cache.prefix_kv, kv_cache.recent_kv)
        )
        num_padding, mask = (None if part is None else part[rows] for part in (kv_cache.num_padding, kv_cache.mask))
        return PackedCache(prefix_kv, recent_kv, kv_cache.length, num_padding, mask, kv_cache.is_native)

    def _rotary_at(self, positions: Tensor) -> Tensor | None:
        """Look up the rotation of queries and keys: positions (M,) or (1,) -> (M, 1, E / 2, 2) or (1, 1, E / 2, 2)."""
        return None if self.rotary is None else self.rotary[positions][:, None]

    def _project(self, block: PackedBlock, hidden: Tensor, rotary: Tensor | None) -> Tensor:
        """Compute queries, keys and values, the first two rotated: (M, D) -> (M, (H + 2 G) E)."""
        qkv = block.qkv(self._normalize(hidden))
        if rotary is None:
            return qkv
        pairs, num_rotated = qkv.view(len(qkv), -1, self.head_width // 2, 2), self.num_heads + self.num_groups
        if qkv.dtype != torch.float32:  # for which there are no complex numbers
            rotated = _complex_product(pairs[:, :num_rotated].float(), rotary)
            return torch.cat([rotated.to(qkv.dtype), pairs[:, num_rotated:]], 1).flatten(1)
        torch.view_as_complex(pairs).narrow(1, 0, num_rotated).mul_(torch.view_as_complex(rotary))
        return qkv

    def _finish_block(self, block: PackedBlock, hidden: Tensor, attended: Tensor) -> Tensor:
        """Add attention and MLP of a block to the residual stream (M, D), in place."""
        hidden += block.out(attended)
        hidden += block.down(self._activate(block.up(self._normalize(hidden))))
        return hidden


def _complex_product(one: Tensor, other: Tensor) -> Tensor:
    """Multiply (..., 2) by (..., 2), each a real and an imaginary part."""
    (a, b), (c, d) = one.unbind(-1), other.unbind(-1)
    return torch.stack([a * c - b * d, a * d + b * c], -1)


def _take_rows(rows: Tensor, tokens_at: Tensor | None) -> Tensor:
    return rows if tokens_at is None else rows[tokens_at]


def _spread_rows(rows: Tensor, tokens_at: Tensor | None, count: int) -> Tensor:
    """Put rows (M, ...) back among padding: -> (count, ...), zero there, since attention would carry a NaN from it."""
    return rows if tokens_at is None else rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, tokens_at, rows)


def _native_cache(parts: list[Tensor], capacity: int, num_padding: Tensor | None, backend: StepBackend) -> PackedCache:
    """Lay out keys and values (2, B, G, P, E) of each block for the native step."""
    return PackedCache(
        prefix_kv=[part[:, :, :, :0] for part in parts],
        recent_kv=[backend.arrange(part, capacity) for part in parts],
        length=parts[0].shape[3],
        num_padding=None if num_padding is None else num_padding.long(),
        mask=None,
        is_native=True,
    )


def _new_cache(parts: list[Tensor], capacity: int, num_padding: Tensor | None, mask: Tensor | None) -> PackedCache:
    """Make a cache for `capacity` tokens of keys and values (2, B, G, P, E) of each block."""
    length, first = parts[0].shape[3], parts[0]
    is_large = len(parts) * first.nbytes // length * capacity > LARGE_CACHE
    has_gaps = capacity * first.shape[4] * first.element_size() <= SHORT_RUN
    is_split = is_large and has_gaps and first.device.type == "cpu"
    size = RECENT if is_split else capacity
    recent_kv = [part.new_empty(*part.shape[:3], size, part.shape[4]) for part in parts]
    if is_split:
        return PackedCache(parts, recent_kv, length, num_padding, mask)
    for part, buffer in zip(parts, recent_kv, strict=True):
        buffer[:, :, :, :length] = part
    return PackedCache([part[:, :, :, :0] for part in parts], recent_kv, length, num_padding, mask)


def _with_capacity(kv_cache: PackedCache) -> PackedCache:
    """Ensure capacity for one more token: a full recent part moves into the prefix part."""
    if kv_cache.length - kv_cache.prefix_kv[0].shape[3] < kv_cache.recent_kv[0].shape[3]:
        return kv_cache
    prefix_kv = [torch.cat(parts, 3) for parts in zip(kv_cache.prefix_kv, kv_cache.recent_kv, strict=True)]
    num_moved = kv_cache.recent_kv[0].shape[3]
    mask = None if kv_cache.mask is None else F.pad(kv_cache.mask, (0, num_moved))  # if the capacity was too small
    return replace(kv_cache, prefix_kv=prefix_kv, mask=mask)


def _attend(queries: Tensor, prefix: Tensor, recent: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attend with queries (B, G, R, E) to prefix and recent keys and values (2, B, G, ., E): -> (B, G, R, E)."""
    length = prefix.shape[3]
    if length == 0:
        return F.scaled_dot_product_attention(queries, recent[0], recent[1], mask, scale=scale)
    keys, values = prefix.flatten(1, 2)
    recent_keys, recent_values = recent.flatten(1, 2)
    flat = queries.flatten(0, 1) * scale
    scores = torch.cat([flat @ keys.mT, flat @ recent_keys.mT], -1)
    if mask is not None:
        scores.view(*queries.shape[:3], -1).add_(mask)
    weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    attended = torch.bmm(weights[..., :length], values).baddbmm_(weights[..., length:], recent_values)
    return attended.view(queries.shape)


@contextmanager
def _enough_threads(model: PackedModel, token: Tensor) -> Iterator[None]:
    """Use one thread for few rows of a model that a processor's caches hold: waking others takes longer than they save.

    A rule and not a trial, so that the same job gives the same bits.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(token) >= ROWS_FOR_THREADS or token.device.type != "cpu" or model.nbytes > LARGE_MODEL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _causal_mask(num_padding: Tensor, length: int) -> Tensor:
    """Mask (B, 1, P, P): a row sees its own earlier tokens; padding sees itself, since a row of -inf has no softmax."""
    columns = torch.arange(length, device=num_padding.device)
    visible = (columns <= columns[:, None]) & (columns >= num_padding[:, None, None])
    return _additive(visible | torch.eye(length, dtype=torch.bool, device=num_padding.device)).unsqueeze(1)


def _padding_mask(num_padding: Tensor, capacity: int) -> Tensor:
    return _additive(torch.arange(capacity, device=num_padding.device) >= num_padding[:, None])[:, None, None]


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)
