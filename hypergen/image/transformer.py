"""A decoder-only transformer over picture codes with ImageGPT's architecture (Chen et al., 2020).

Ids 0 .. K-1 are codes, id K is the start token, which is only ever first: it has an embedding (num_tokens = K + 1) but
no logit (the head has K rows), so decoding cannot emit it. A picture of h * w codes is h * w + 1 tokens
(`context_length`); to predict all of them the model reads the first h * w (`num_positions`), never the last.
Parameters have the names, shapes and layout of `transformers.ImageGPTForCausalImageModeling`, so its checkpoints load
here and ours load there (`checkpoint`). Its layer norm neither centres nor shifts: it is what is now called RMS norm.
Does not know: what a code looks like, files of pictures, training.

Shape letters: B batch, T tokens, D width, H heads, E = D / H, K codes, L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.attention import causal_attention
from hypergen.errors import InputError
from hypergen.lean import LeanBlock, LeanModel, LeanState, Product, quick_gelu, weights_version
from hypergen.native import with_native_step


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a transformer."""

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
    """x / rms(x) * weight."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class Projection(nn.Module):
    """An affine map whose weight is stored (in, out): ImageGPT's layout, and the faster one for single rows on CPU."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.addmm(self.bias, hidden.reshape(-1, len(self.weight)), self.weight).view(*hidden.shape[:-1], -1)


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.c_attn = Projection(config.width, 3 * config.width)
        self.c_proj = Projection(config.width, config.width)
        self.num_heads = config.num_heads
        self.scale = (config.width // config.num_heads) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), each token from itself and earlier ones."""
        batch, length, _ = hidden.shape
        heads = self.c_attn(hidden).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.unbind()
        mixed = causal_attention(queries, keys, values, self.scale)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """The MLP of a block, with quick GELU."""

    def __init__(self, width: int, inner_width: int):
        super().__init__()
        self.c_fc = Projection(width, inner_width)
        self.c_proj = Projection(inner_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.c_proj(quick_gelu(self.c_fc(hidden)))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.ln_1 = Norm(config.width, config.norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = Norm(config.width, config.norm_epsilon)
        self.mlp = Perceptron(config.width, config.inner_width or 4 * config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = hidden + self.attn(self.ln_1(hidden))
        return hidden + self.mlp(self.ln_2(hidden))


class Body(nn.Module):
    """Embeddings, blocks and final norm, under ImageGPT's names."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.wte = nn.Embedding(config.num_codes + 1, config.width)
        self.wpe = nn.Embedding(config.num_positions, config.width)
        self.h: Any = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.ln_f = Norm(config.width, config.norm_epsilon)


class ImageTransformer(nn.Module):
    """A `TokenModel`; see `hypergen.modality`. Input and output embeddings are not tied; there is no dropout."""

    offloaded = False
    takes_padding = False  # every picture's prompt starts at the same position

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.num_tokens = config.num_codes + 1
        self.context_length = config.num_positions + 1
        self.transformer = Body(config)
        self.lm_head = nn.Linear(config.width, config.num_codes, bias=False)
        self._packed: tuple[Any, LeanModel] | None = None
        self._wants_native = False

    @property
    def start_token(self) -> int:
        return self.config.num_codes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.transformer.h)

    @property
    def tail(self) -> Sequence[nn.Module]:
        return [self.transformer.ln_f, self.lm_head]

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) ids, T at most num_positions -> (B, T, K) logits of the next code."""
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        return self.from_boundary(self._embed(tokens), len(self.transformer.h))

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., K) logits over codes; the start token has none."""
        return self.lm_head(hidden)

    def boundary(self, tokens: Tensor, num_last: int) -> Tensor:
        """(B, T) ids -> (B, T, D), the input of the last `num_last` blocks."""
        hidden = self._embed(tokens)
        for block in self.transformer.h[: len(self.transformer.h) - num_last]:
            hidden = block(hidden)
        return hidden

    def from_boundary(self, hidden: Tensor, num_last: int, stop: int = 0) -> Tensor:
        """(B, T, D) from `boundary` -> (B, T, D), what `hidden` gives, or `boundary` for a `stop` above 0."""
        count = len(self.transformer.h)
        for block in self.transformer.h[count - num_last : count - stop]:
            hidden = block(hidden)
        return hidden if stop else self.transformer.ln_f(hidden)

    @torch.no_grad()
    def start(self, prompt: Tensor, max_new_tokens: int, pads: Tensor | None = None) -> tuple[Tensor, LeanState]:
        """(B, P) ids, P >= 1 -> logits (B, K) of the next code, and a state with room for the completion."""
        if pads is not None:
            raise InputError("pictures start at the same position: prompts cannot be padded")
        self._require_positions(prompt.shape[1])
        return self._lean().start(prompt, min(prompt.shape[1] + max_new_tokens, self.config.num_positions))

    @torch.no_grad()
    def step(self, token: Tensor, state: LeanState) -> tuple[Tensor, LeanState]:
        """(B,) ids -> logits (B, K) of the code after it, and the longer state; the given one is used up."""
        self._require_positions(state.length + 1)
        assert self._packed is not None
        return self._packed[1].step(token, state)

    def use_native(self, wanted: bool) -> None:
        """Whether steps run in native code where that can be had (`native`)."""
        self._packed = self._packed if wanted == self._wants_native else None
        self._wants_native = wanted

    def _lean(self) -> LeanModel:
        """The packed copy of the weights as they are now."""
        version = weights_version(self)
        if self._packed is None or self._packed[0] != version:
            self._packed = version, with_native_step(pack(self)) if self._wants_native else pack(self)
        return self._packed[1]

    def select(self, state: LeanState, rows: Tensor) -> LeanState:
        """Keep these rows (B',), repeats allowed."""
        return LeanModel.select(state, rows)

    def train(self, mode: bool = True) -> ImageTransformer:
        """Training mode drops the packed copy of the weights."""
        self._packed = None if mode else self._packed
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """A copy packs its weights itself: layouts of oneDNN cannot be copied."""
        return vars(self) | {"_packed": None}

    def _embed(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        self._require_positions(tokens.shape[1])
        return self.transformer.wte(tokens) + self.transformer.wpe.weight[: tokens.shape[1]]

    def _require_positions(self, length: int) -> None:
        if length > self.config.num_positions:
            raise InputError(f"sequence of {length} tokens: the model reads at most {self.config.num_positions}")


def pack(model: ImageTransformer) -> LeanModel:
    """The model's weights as they are now, for decoding (`hypergen.lean`)."""
    body, config = model.transformer, model.config
    gain = math.sqrt(config.width)

    def after(norm: Norm, projection: Projection) -> Product:
        return Product(norm.weight[:, None] * projection.weight * gain, projection.bias)

    def block(layer: Block) -> LeanBlock:
        return LeanBlock(
            attend=after(layer.ln_1, layer.attn.c_attn),
            mix=Product(layer.attn.c_proj.weight, layer.attn.c_proj.bias),
            widen=after(layer.ln_2, layer.mlp.c_fc),
            narrow=Product(layer.mlp.c_proj.weight, layer.mlp.c_proj.bias),
            scale=layer.attn.scale,
        )

    return LeanModel(
        embedding=body.wte.weight.detach(),
        places=body.wpe.weight.detach(),
        blocks=[block(layer) for layer in body.h],
        head=Product((model.lm_head.weight * body.ln_f.weight * gain).T),
        norm="rms",
        epsilon=config.norm_epsilon,
        activation="quick_gelu",
        is_gated=False,
        num_heads=config.num_heads,
        num_groups=config.num_heads,
        head_width=config.width // config.num_heads,
    )


def new_transformer(config: TransformerConfig, seed: int) -> ImageTransformer:
    """Fresh weights as in GPT-2: normal, the projections into the residual stream smaller by sqrt(2 L)."""
    with torch.random.fork_rng(devices=[]):
        model = ImageTransformer(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            shrink = math.sqrt(2 * config.num_layers) if name.endswith("c_proj.weight") else 1.0
            nn.init.normal_(parameter, std=config.initializer_range / shrink, generator=generator)
    return model
