"""Model picture codes with a decoder-only transformer of ImageGPT's architecture (Chen et al., 2020).

Ids 0 .. K-1 are codes, id K is the start token, which is only ever first: it has an embedding (num_tokens = K + 1) but
no logit (the head has K rows), so decoding cannot emit it. A picture of h * w codes is h * w + 1 tokens
(`context_length`); to predict all of them the model reads the first h * w (`num_positions`), never the last.
Parameters have the names, shapes and layout of `transformers.ImageGPTForCausalImageModeling`, so its checkpoints load
here and ours load there (`checkpoint`). Its layer norm neither centres nor shifts: it is now called RMS norm.

Shape letters: B batch, T tokens, P prompt, D width, H heads, E = D / H, K codes, L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import InputError
from hypergen.kernels.causal_attention import causal_attention
from hypergen.kernels.packed_decoder import PackedDecoder
from hypergen.kernels.packed_linear import PackedLinear
from hypergen.kernels.packed_model import PackedBlock, PackedCache, PackedModel, quick_gelu
from hypergen.runtime.console import warn_once


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Describe the shape of a transformer."""

    num_codes: int
    num_positions: int
    width: int
    num_layers: int
    num_heads: int
    inner_width: int | None = None  # of the MLP; none: 4 * width
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True  # divide attention scores by sqrt(E)
    scale_attn_by_inverse_layer_idx: bool = False  # and by the block's number, from 1


class Norm(nn.Module):
    """Scale to unit root mean square, then by a gain: x / rms(x) * weight."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalize (..., D)."""
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class Projection(nn.Module):
    """Map affinely, by a weight (in, out): ImageGPT's layout, and the faster one for single rows on a CPU."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., in) -> (..., out)."""
        return torch.addmm(self.bias, hidden.reshape(-1, len(self.weight)), self.weight).view(*hidden.shape[:-1], -1)


class Attention(nn.Module):
    """Attend causally with H heads, queries, keys and values from one projection."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.c_attn = Projection(config.width, 3 * config.width)
        self.c_proj = Projection(config.width, config.width)
        self.num_heads = config.num_heads
        self.scale = (config.width // config.num_heads) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, hidden: Tensor) -> Tensor:
        """Mix each token with itself and earlier ones: (B, T, D) -> (B, T, D)."""
        qkv = rearrange(self.c_attn(hidden), "b t (qkv h e) -> qkv b h t e", qkv=3, h=self.num_heads)
        queries, keys, values = qkv
        attended = causal_attention(queries, keys, values, self.scale)
        return self.c_proj(rearrange(attended, "b h t e -> b t (h e)"))


class Perceptron(nn.Module):
    """Transform each token alone: the MLP of a block, with quick GELU."""

    def __init__(self, width: int, inner_width: int):
        super().__init__()
        self.c_fc = Projection(width, inner_width)
        self.c_proj = Projection(inner_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., D) -> (..., D)."""
        return self.c_proj(quick_gelu(self.c_fc(hidden)))


class Block(nn.Module):
    """Add attention and MLP to the residual stream, each after a norm."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.ln_1 = Norm(config.width, config.norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = Norm(config.width, config.norm_epsilon)
        self.mlp = Perceptron(config.width, config.inner_width or 4 * config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Continue the residual stream (B, T, D) -> (B, T, D)."""
        hidden = hidden + self.attn(self.ln_1(hidden))
        return hidden + self.mlp(self.ln_2(hidden))


class Body(nn.Module):
    """Hold embeddings, blocks and final norm, under ImageGPT's names."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.wte = nn.Embedding(config.num_codes + 1, config.width)
        self.wpe = nn.Embedding(config.num_positions, config.width)
        self.h: Any = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.ln_f = Norm(config.width, config.norm_epsilon)


class ImageTransformer(nn.Module):
    """Predict the next picture code; a `TokenModel`. Input and output embeddings are not tied; there is no dropout."""

    supports_left_padding = False  # every picture's prompt starts at the same position

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.num_tokens = config.num_codes + 1
        self.context_length = config.num_positions + 1
        self.transformer = Body(config)
        self.lm_head = nn.Linear(config.width, config.num_codes, bias=False)
        self._decoder = PackedDecoder(warn_once)

    @property
    def start_token(self) -> int:
        """Id before the first code."""
        return self.config.num_codes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the transformer, in order."""
        return list(self.transformer.h)

    @property
    def final_modules(self) -> Sequence[nn.Module]:
        """Final norm and head."""
        return [self.transformer.ln_f, self.lm_head]

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits of the next codes: (B, T) ids, T at most num_positions -> (B, T, K)."""
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute the last hidden states: (B, T) ids -> (B, T, D)."""
        return self.forward_from(self._embed(tokens), len(self.transformer.h))

    def head(self, hidden: Tensor) -> Tensor:
        """Compute logits over codes, the start token has none: (..., D) -> (..., K)."""
        return self.lm_head(hidden)

    def hidden_before(self, tokens: Tensor, num_last: int) -> Tensor:
        """Compute the input of the last `num_last` blocks: (B, T) ids -> (B, T, D)."""
        hidden = self._embed(tokens)
        for block in self.transformer.h[: len(self.transformer.h) - num_last]:
            hidden = block(hidden)
        return hidden

    def forward_from(self, hidden: Tensor, num_last: int, until: int = 0) -> Tensor:
        """Continue from `hidden_before`: (B, T, D) -> (B, T, D), up to the last `until` blocks or to the end."""
        count = len(self.transformer.h)
        for block in self.transformer.h[count - num_last : count - until]:
            hidden = block(hidden)
        return hidden if until else self.transformer.ln_f(hidden)

    def cache_stages(self, num_last: int) -> Sequence[int]:
        """List the one stage of a model in memory: the way to the last `num_last` blocks."""
        return (num_last,)

    @torch.no_grad()
    def prefill(
        self, prompt: Tensor, max_new_tokens: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, PackedCache]:
        """Compute the prompt: (B, P) ids, P >= 1 -> logits (B, K) of the next code, and a cache of the prefix.

        Args:
            prompt: ids, start token included.
            max_new_tokens: how many codes will follow; the cache has the capacity for them.
            num_padding: must be None, because pictures start at the same position.
            native: let the steps run in native code where that can be had.

        Raises:
            InputError: prompts are padded, or longer than the model reads.
        """
        if num_padding is not None:
            raise InputError("pictures start at the same position: prompts cannot be padded")
        self._require_positions(prompt.shape[1])
        packed = self._decoder.get(self, lambda: pack_weights(self), native=native)
        assert packed is not None
        capacity = min(prompt.shape[1] + max_new_tokens, self.config.num_positions)
        return packed.prefill(prompt, capacity, native=native)

    @torch.no_grad()
    def decode_step(self, token: Tensor, kv_cache: PackedCache) -> tuple[Tensor, PackedCache]:
        """Decode one code: (B,) ids -> logits (B, K) of the code after it, and the longer cache.

        Raises:
            InputError: the picture is complete.
        """
        self._require_positions(kv_cache.length + 1)
        return self._decoder.decode_step(token, kv_cache)

    def select_rows(self, kv_cache: PackedCache, rows: Tensor) -> PackedCache:
        """Keep these rows (B',), repeats allowed, and leave the given cache as it was."""
        return self._decoder.select_rows(kv_cache, rows)

    def train(self, mode: bool = True) -> ImageTransformer:
        """Set the mode; training drops the packed copy of the weights, which it would outdate."""
        if mode:
            self._decoder.drop()
        return super().train(mode)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed ids and positions: (B, T) -> (B, T, D)."""
        self._require_positions(tokens.shape[1])
        return self.transformer.wte(tokens) + self.transformer.wpe.weight[: tokens.shape[1]]

    def _require_positions(self, length: int) -> None:
        if length > self.config.num_positions:
            raise InputError(f"sequence of {length} tokens: the model reads at most {self.config.num_positions}")


def pack_weights(model: ImageTransformer) -> PackedModel:
    """Pack the model's weights, as they are now, for decoding; the gain of each norm goes into the next product."""
    body, config = model.transformer, model.config
    sqrt_width = math.sqrt(config.width)  # `PackedModel` divides by the norm of a vector, not by its root mean square

    def with_gain(norm: Norm, projection: Projection) -> PackedLinear:
        return PackedLinear(norm.weight[:, None] * projection.weight * sqrt_width, projection.bias)

    def pack_block(block: Block) -> PackedBlock:
        return PackedBlock(
            qkv=with_gain(block.ln_1, block.attn.c_attn),
            out=PackedLinear(block.attn.c_proj.weight, block.attn.c_proj.bias),
            up=with_gain(block.ln_2, block.mlp.c_fc),
            down=PackedLinear(block.mlp.c_proj.weight, block.mlp.c_proj.bias),
            scale=block.attn.scale,
        )

    return PackedModel(
        embedding=body.wte.weight.detach(),
        position_embedding=body.wpe.weight.detach(),
        blocks=[pack_block(block) for block in body.h],
        head=PackedLinear((model.lm_head.weight * body.ln_f.weight * sqrt_width).T),
        norm="rms",
        epsilon=config.norm_epsilon,
        activation="quick_gelu",
        is_gated=False,
        num_heads=config.num_heads,
        num_groups=config.num_heads,
        head_width=config.width // config.num_heads,
    )


def new_transformer(config: TransformerConfig, seed: int) -> ImageTransformer:
    """Initialize as GPT-2 does: normal, the projections into the residual stream smaller by sqrt(2 L)."""
    with torch.random.fork_rng(devices=[]):
        model = ImageTransformer(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            shrink = math.sqrt(2 * config.num_layers) if name.endswith("c_proj.weight") else 1.0
            nn.init.normal_(parameter, std=config.initializer_range / shrink, generator=generator)
    return model
