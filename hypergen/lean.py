"""Cached decoding of a small transformer in as few tensor operations as it has.

At a few million parameters a step's time goes into calling operations, not into arithmetic. Here a block is two norms,
four products with weights laid out for the number of rows, one rotation, one write to the cache and one attention.
Norm gains are folded into the products that follow them, so numbers differ from the module's by rounding only; whoever
packs a model checks that. Keys and values of many short rows that outgrow a processor's caches are kept without gaps:
read in one go, they come three times as fast as from a buffer that is partly filled (measured).
Does not know: architectures (`text.lean` and `image.transformer` pack theirs), strategies, training.

Shape letters: B batch, T tokens, P prompt, L cached tokens, C room of a cache, D width, H query heads, G key-value
heads, E width of a head, V vocabulary, M rows of a product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from hypergen.native import NativeStep

DTYPES = (torch.float32, torch.bfloat16)  # of a model that can be packed, all weights the same
MOST_BYTES = 2**29  # of weights; those of a larger model are not copied: there arithmetic takes the time, not calls
LARGE_CACHE = 8 * 2**20  # bytes of keys and values that processors' caches hold; beyond it they must be read in a row
RECENT = 32  # tokens after which those of a large cache move together
SHORT_RUN = 64 * 2**10  # bytes of one head's keys; gaps between longer ones do not matter
LARGE_MODEL = 16 * 2**20  # bytes of weights that one thread does not read fast enough
ROWS_FOR_THREADS = 4  # from here on several threads are faster (measured)
ROWS_TO_PREPACK = {"AVX512": 2}  # from here on oneDNN's layout is faster than a transposed one (measured)
OTHER_ROWS_TO_PREPACK = 16  # the same on processors of other kinds; also the rows that oneDNN lays weights out for


def quick_gelu(inner: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    return inner * torch.sigmoid(1.702 * inner)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "tanh_gelu": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


class Product:
    """x (M, I) -> x @ weight + bias (M, O), with the weight in the layout that suits M."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """Take the weight as (I, O). In memory its longer side comes last: the fastest for one row (measured)."""
        is_tall = weight.shape[0] > weight.shape[1]
        self.weight = weight.detach().T.contiguous().T if is_tall else weight.detach().contiguous()
        self.bias = None if bias is None else bias.detach()
        can_prepack = weight.device.type == "cpu" and weight.dtype in DTYPES and _has_prepacking()
        self.rows_to_prepack = _rows_to_prepack() if can_prepack else math.inf
        self.prepacked: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        if rows.shape[0] >= self.rows_to_prepack:
            if self.prepacked is None:
                self.prepacked = _prepack(self.weight)
            return _prepacked_product(rows, self.prepacked, self.bias)
        return rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)


def _prepack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous(), OTHER_ROWS_TO_PREPACK)


def _prepacked_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


@cache
def _rows_to_prepack() -> int:
    return ROWS_TO_PREPACK.get(torch.backends.cpu.get_cpu_capability(), OTHER_ROWS_TO_PREPACK)


@cache
def _has_prepacking() -> bool:
    """oneDNN's operations are torch's own but undocumented: used where they exist and multiply."""
    try:
        one = torch.ones(4, 4)
        return torch.equal(_prepacked_product(one, _prepack(one), None), one @ one)
    except (AttributeError, RuntimeError):
        return False


@dataclass(frozen=True, kw_only=True)
class LeanBlock:
    """The products of one block; those that follow a norm have its gain in them."""

    attend: Product
    """D -> (H + 2 G) E: queries, keys, values."""
    mix: Product
    """H E -> D."""
    widen: Product
    narrow: Product
    scale: float
    """Of attention scores."""


@dataclass(frozen=True)
class LeanState:
    """Keys and values of `length` tokens, in two parts for each block. A step uses a state up."""

    whole: list[Tensor]
    """(2, B, G, L, E), all filled; (2, B, G, 0, E) where the recent part has room for everything."""
    recent: list[Tensor]
    """(2, B, G, C, E), filled as far as `length` goes beyond `whole`."""
    length: int
    pads: Tensor | None
    """(B,) padding ids before each prompt; None: none anywhere."""
    mask: Tensor | None
    """(B, 1, 1, room), added to attention scores: -inf where a row is padding."""
    is_native: bool = False
    """Arranged by `NativeStep.arrange`, the whole part empty."""


@dataclass(frozen=True, kw_only=True)
class LeanModel:
    """A decoder-only transformer whose blocks normalize before attention and before the MLP."""

    embedding: Tensor
    """(ids, D)."""
    places: Tensor | None = None
    """(positions, D), added to the embedding; None: queries and keys are rotated."""
    blocks: Sequence[LeanBlock]
    head: Product
    norm: Literal["rms", "layer"]
    """Without gain and bias; see `normalize`."""
    epsilon: float
    activation: str
    """A name in ACTIVATIONS."""
    is_gated: bool
    """Whether `widen` gives gates (M, I), which are activated, and what they are multiplied with (M, I)."""
    num_heads: int
    num_groups: int
    head_width: int
    rotation: Tensor | None = None
    """(positions, E / 2, 2), cosines and sines by which neighbouring pairs are turned; None: positions are embedded."""
    native: NativeStep | None = None
    """What takes the place of `advance`."""

    @cached_property
    def nbytes(self) -> int:
        """Of the weights that a step reads."""
        products = [self.head, *(p for b in self.blocks for p in (b.attend, b.mix, b.widen, b.narrow))]
        return sum(product.weight.nbytes for product in products)

    def start(self, prompt: Tensor, room: int, pads: Tensor | None = None) -> tuple[Tensor, LeanState]:
        """(B, P) ids, the first `pads` (B,) of each row padding -> logits (B, V) of the next id, and a state.

        Only attention sees padding, everything else runs on the ids alone.

        Args:
            room: tokens that there will be, P or more.
        """
        batch, length = prompt.shape
        shifts = prompt.new_zeros(batch) if pads is None else pads
        positions = torch.arange(length, device=prompt.device) - shifts[:, None]
        kept = None if pads is None else (positions.flatten() >= 0).nonzero().squeeze(1)
        dtype = self.head.weight.dtype
        mask = None if pads is None else _causal_mask(pads, length).to(dtype)
        positions = _gather(positions.flatten(), kept)
        hidden, turn = self._embed(_gather(prompt.flatten(), kept), positions), self._turn(positions)
        parts = []
        for block in self.blocks:
            heads = _spread(self._project(block, hidden, turn), kept, batch * length)
            heads = heads.view(batch, length, -1, self.head_width).transpose(1, 2)
            queries, keys, values = heads.split([self.num_heads, self.num_groups, self.num_groups], 1)
            parts.append(torch.stack([keys, values]))
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, mask, 0.0, mask is None,
                scale=block.scale, enable_gqa=self.num_groups < self.num_heads,
            )  # fmt: skip
            hidden = self._finish(block, hidden, _gather(mixed.transpose(1, 2).reshape(batch * length, -1), kept))
        ends = torch.arange(1, batch + 1, device=prompt.device) * length
        ends = ends - 1 if pads is None else ends - 1 - pads.cumsum(0)
        padding = None if pads is None else _padding_mask(pads, room).to(dtype)
        return self.head(self._normalize(hidden[ends])), _new_state(parts, room, pads, padding, self.native)

    def step(self, token: Tensor, state: LeanState) -> tuple[Tensor, LeanState]:
        """(B,) ids -> logits (B, V) of the id after each, and a state one longer over the same memory."""
        if state.is_native:
            assert self.native is not None
            self._require_room(state)
            return self.native(token, state), replace(state, length=state.length + 1)
        state = _with_room(state)
        with _enough_threads(self, token):
            logits = self._advance(token, state)
        return logits, replace(state, length=state.length + 1)

    def _require_room(self, state: LeanState) -> None:
        """The native step writes where it is told to."""
        tables = [len(table) for table in (self.rotation, self.places) if table is not None]
        room = min([state.recent[0].shape[3], *tables])
        if state.length >= room:
            raise IndexError(f"token {state.length + 1}: there is room for {room}")

    def _advance(self, token: Tensor, state: LeanState) -> Tensor:
        """(B,) ids -> logits (B, V); the recent part of the state takes the new token."""
        length, filled = state.length, state.length - state.whole[0].shape[3]
        positions = torch.tensor([length], device=token.device) if state.pads is None else length - state.pads
        mask = None if state.mask is None else state.mask[..., : length + 1]
        batch = len(token)
        hidden, turn = self._embed(token, positions), self._turn(positions)
        num_queries = self.num_heads * self.head_width
        grouped = batch, self.num_groups, self.num_heads // self.num_groups, self.head_width
        of_others = batch, 2, self.num_groups, self.head_width
        for block, before, buffer in zip(self.blocks, state.whole, state.recent, strict=True):
            parts = self._project(block, hidden, turn)
            buffer.narrow(3, filled, 1).squeeze(3).copy_(parts[:, num_queries:].view(of_others).transpose(0, 1))
            queries = parts[:, :num_queries].view(grouped)  # those of a group are its rows
            mixed = _attend(queries, before, buffer.narrow(3, 0, filled + 1), mask, block.scale)
            hidden = self._finish(block, hidden, mixed.reshape(batch, -1))
        return self.head(self._normalize(hidden))

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Ids (M,) and positions that broadcast to them -> (M, D), a new tensor."""
        embedded = F.embedding(ids, self.embedding)
        return embedded if self.places is None else embedded + F.embedding(positions, self.places)

    def _normalize(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, D), without gain and bias, for RMS norm also without the factor sqrt(D): it is in the gain."""
        if self.norm == "layer":
            return F.layer_norm(hidden, hidden.shape[-1:], eps=self.epsilon)
        return hidden / torch.hypot(torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), self._floor)

    @cached_property
    def _floor(self) -> Tensor:
        return self.embedding.new_tensor(math.sqrt(self.embedding.shape[1] * self.epsilon))

    def _activate(self, wide: Tensor) -> Tensor:
        """What `widen` gives -> what `narrow` takes, (M, I)."""
        activation = ACTIVATIONS[self.activation]
        if not self.is_gated:
            return activation(wide)
        gate, up = wide.chunk(2, -1)
        return activation(gate).mul_(up)

    @staticmethod
    def select(state: LeanState, rows: Tensor) -> LeanState:
        """These rows (B',) of a state, repeats allowed; the given one is left as it was."""
        whole, recent = ([part.index_select(1, rows) for part in parts] for parts in (state.whole, state.recent))
        pads, mask = (None if part is None else part[rows] for part in (state.pads, state.mask))
        return LeanState(whole, recent, state.length, pads, mask, state.is_native)

    def _turn(self, positions: Tensor) -> Tensor | None:
        """Positions (M,) or (1,) -> what queries and keys are turned by, (M, 1, E / 2, 2) or (1, 1, E / 2, 2)."""
        return None if self.rotation is None else self.rotation[positions][:, None]

    def _project(self, block: LeanBlock, hidden: Tensor, turn: Tensor | None) -> Tensor:
        """(M, D) -> (M, (H + 2 G) E), queries and keys rotated."""
        parts = block.attend(self._normalize(hidden))
        if turn is None:
            return parts
        pairs, num_turned = parts.view(len(parts), -1, self.head_width // 2, 2), self.num_heads + self.num_groups
        if parts.dtype != torch.float32:  # for which there are no complex numbers
            turned = _product_of_complex(pairs[:, :num_turned].float(), turn)
            return torch.cat([turned.to(parts.dtype), pairs[:, num_turned:]], 1).flatten(1)
        torch.view_as_complex(pairs).narrow(1, 0, num_turned).mul_(torch.view_as_complex(turn))
        return parts

    def _finish(self, block: LeanBlock, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The residual stream (M, D) after a block, over the one before it."""
        hidden += block.mix(mixed)
        hidden += block.narrow(self._activate(block.widen(self._normalize(hidden))))
        return hidden


def _product_of_complex(one: Tensor, other: Tensor) -> Tensor:
    """(..., 2) and (..., 2), each a real and an imaginary part."""
    (a, b), (c, d) = one.unbind(-1), other.unbind(-1)
    return torch.stack([a * c - b * d, a * d + b * c], -1)


def _gather(rows: Tensor, kept: Tensor | None) -> Tensor:
    return rows if kept is None else rows[kept]


def _spread(rows: Tensor, kept: Tensor | None, count: int) -> Tensor:
    """(M, ...) -> (count, ...), zeros between the rows; zeros, since attention would carry a NaN from padding."""
    return rows if kept is None else rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, kept, rows)


def _new_state(
    parts: list[Tensor], room: int, pads: Tensor | None, mask: Tensor | None, native: NativeStep | None
) -> LeanState:
    """Keys and values (2, B, G, P, E) of each block as a state for `room` tokens."""
    length, first = parts[0].shape[3], parts[0]
    if native is not None:
        recent, pads = [native.arrange(part, room) for part in parts], None if pads is None else pads.long()
        return LeanState([part[:, :, :, :0] for part in parts], recent, length, pads, None, is_native=True)
    is_large = len(parts) * first.nbytes // length * room > LARGE_CACHE
    has_gaps = room * first.shape[4] * first.element_size() <= SHORT_RUN
    is_split = is_large and has_gaps and first.device.type == "cpu"
    size = RECENT if is_split else room
    recent = [part.new_empty(*part.shape[:3], size, part.shape[4]) for part in parts]
    if is_split:
        return LeanState(parts, recent, length, pads, mask)
    for part, buffer in zip(parts, recent, strict=True):
        buffer[:, :, :, :length] = part
    return LeanState([part[:, :, :, :0] for part in parts], recent, length, pads, mask)


def _with_room(state: LeanState) -> LeanState:
    """The state with room for one more token: a full recent part moves into the whole one."""
    if state.length - state.whole[0].shape[3] < state.recent[0].shape[3]:
        return state
    whole = [torch.cat(parts, 3) for parts in zip(state.whole, state.recent, strict=True)]
    mask = None if state.mask is None else F.pad(state.mask, (0, state.recent[0].shape[3]))  # if room was too small
    return replace(state, whole=whole, mask=mask)


def _attend(queries: Tensor, whole: Tensor, recent: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Queries (B, G, R, E) over whole and recent keys and values (2, B, G, ., E) -> (B, G, R, E)."""
    length = whole.shape[3]
    if length == 0:
        return F.scaled_dot_product_attention(queries, recent[0], recent[1], mask, scale=scale)
    keys, values = whole.flatten(1, 2)
    recent_keys, recent_values = recent.flatten(1, 2)
    flat = queries.flatten(0, 1) * scale
    scores = torch.cat([flat @ keys.mT, flat @ recent_keys.mT], -1)
    if mask is not None:
        scores.view(*queries.shape[:3], -1).add_(mask)
    weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    mixed = torch.bmm(weights[..., :length], values).baddbmm_(weights[..., length:], recent_values)
    return mixed.view(queries.shape)


@contextmanager
def _enough_threads(model: LeanModel, token: Tensor) -> Iterator[None]:
    """One thread for few rows of a model that a processor's caches hold: to wake others takes longer than they save.

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


def weights_version(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes whenever a parameter of the module is changed or replaced."""
    return tuple((parameter.data_ptr(), parameter._version) for parameter in module.parameters())


def is_small(module: nn.Module) -> bool:
    """Whether all weights are fp32, or all bf16, and few enough to be copied."""
    parameters = list(module.parameters())
    dtypes = {parameter.dtype for parameter in parameters}
    is_plain = len(dtypes) == 1 and dtypes < set(DTYPES) and not any(parameter.is_meta for parameter in parameters)
    return is_plain and sum(parameter.nbytes for parameter in parameters) <= MOST_BYTES


def _causal_mask(pads: Tensor, length: int) -> Tensor:
    """(B, 1, P, P): a row sees its own earlier tokens; padding sees itself, since a row of -inf has no softmax."""
    columns = torch.arange(length, device=pads.device)
    visible = (columns <= columns[:, None]) & (columns >= pads[:, None, None])
    return _additive(visible | torch.eye(length, dtype=torch.bool, device=pads.device)).unsqueeze(1)


def _padding_mask(pads: Tensor, room: int) -> Tensor:
    return _additive(torch.arange(room, device=pads.device) >= pads[:, None])[:, None, None]


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)
