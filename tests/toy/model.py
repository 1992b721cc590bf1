"""A tiny causal transformer that is a whole TokenModel, in plain torch: pre-norm blocks, learned positions, a key-value
cache that grows by concatenation (an old state stays valid), an untied head.

Shape letters: B batch, T tokens, P prompt, H heads, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class State:
    """What the blocks remember of a prefix: per block keys and values, (B, H, T, D / H) each."""

    caches: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        return self.caches[0][0].shape[2]


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.extend(hidden, None)[0]

    def extend(self, hidden: Tensor, cache: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, D) of a whole prefix, or (B, 1, D) of the token after a cache."""
        qkv = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        hidden = hidden + self.project(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.mlp_norm(hidden)), (key, value)


class ToyModel(nn.Module):
    supports_left_padding = False

    def __init__(
        self,
        *,
        num_tokens: int,
        context_length: int,
        width: int = 32,
        num_layers: int = 3,
        num_heads: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        self.num_tokens, self.context_length = num_tokens, context_length
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(num_tokens, width)
            self.positions = nn.Embedding(context_length, width)
            self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
            self.norm = nn.LayerNorm(width)
            self.output = nn.Linear(width, num_tokens, bias=False)

    @property
    def final_modules(self) -> list[nn.Module]:
        return [self.norm, self.output]

    def hidden(self, tokens: Tensor) -> Tensor:
        return self.forward_from(self.hidden_before(tokens, 1), 1)

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))

    def prefill(
        self, prompt: Tensor, max_new_tokens: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, State]:
        return self._extend(prompt, None)

    def decode_step(self, token: Tensor, kv_cache: State) -> tuple[Tensor, State]:
        return self._extend(token[:, None], kv_cache)

    def select_rows(self, kv_cache: State, rows: Tensor) -> State:
        return State(tuple((key[rows], value[rows]) for key, value in kv_cache.caches))

    def hidden_before(self, tokens: Tensor, num_last: int) -> Tensor:
        hidden = self._embed(tokens, 0)
        for block in self.blocks[: len(self.blocks) - num_last]:
            hidden = block(hidden)
        return hidden

    def forward_from(self, hidden: Tensor, num_last: int, until: int = 0) -> Tensor:
        for block in self.blocks[len(self.blocks) - num_last : len(self.blocks) - until]:
            hidden = block(hidden)
        return hidden if until else self.norm(hidden)

    def cache_stages(self, num_last: int) -> tuple[int, ...]:
        return (num_last,)

    def _extend(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        hidden, caches = self._embed(tokens, state.length if state else 0), []
        for index, block in enumerate(self.blocks):
            hidden, cache = cast(Block, block).extend(hidden, state.caches[index] if state else None)
            caches.append(cache)
        return self.head(self.norm(hidden[:, -1])), State(tuple(caches))

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.embedding(tokens) + self.positions(places)
