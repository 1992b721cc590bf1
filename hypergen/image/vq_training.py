"""Fits a VQ tokenizer to pictures: the one loop beside `hyperfit`, because its objective is reconstruction.

The network starts as the projection of each patch on its first principal components and back, and the code book as
their k-means, so training begins where patch-wise vector quantisation ends (22.9 dB on CIFAR-10) and only has to learn
what the neighbourhood adds. It trains through the nearest code with a straight-through gradient (arXiv 1711.00937);
the code book follows its latents as a moving average (appendix A.1 there), and codes that nothing uses are moved onto
latents of the current batch until REVIVE_UNTIL of the steps. Like `hyperfit`, it continues exactly from a state, which
here includes the generator of batches and revived codes.
Does not know: tokens, transformers, files.

Shape letters: N pictures, S side in pixels, B batch, K codes, D code dimension, C values of a patch, M vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import Interrupted, NonFiniteError
from hypergen.image.pixels import to_unit
from hypergen.progress import track
from hypergen.training_state import State, restore, snapshot

PATCH = 4  # pixels a side that one code stands for: 32 x 32 pixels -> 8 x 8 codes
WIDTH = 96  # channels
CODE_DIM = 16
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # peak; linear warm-up, then cosine to a hundredth
WARM_UP = 0.03  # share of the steps in which the learning rate rises
REVIVE_UNTIL = 0.4
REVIVE_EVERY = 10  # steps
UNUSED = 0.1  # a code with a smaller moving-average count than this is unused
BOOK_DECAY = 0.99
COMMITMENT = 0.25
CARRIER = 15.0  # constant channels, well above the signal, that make group normalisation nearly linear at the start
PICTURES_TO_START = 3000


def train_vq(
    pixels: Tensor,
    num_codes: int,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    checkpoint_every: int = 0,
    state: State | None = None,
    on_checkpoint: Callable[[State], None] = lambda state: None,
    stop_signal: Callable[[], int | None] = lambda: None,
    whole_steps: AbstractContextManager = nullcontext(),  # noqa: B008 (stateless)
) -> VQModel:
    """Pixels (N, 3, S, S) uint8 -> a trained VQModel over patches (see `PATCH`), on the CPU, in evaluation mode.

    Args:
        checkpoint_every: steps between checkpoints; 0: only when a signal arrived and at the end.
        state, on_checkpoint, stop_signal, whole_steps: as in `hyperfit`.

    Raises:
        NonFiniteError: loss or gradient is not finite; the step was not taken.
        CheckpointError: the state is not one of this training.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_vq(pixels.shape[-1], num_codes)
    model.quantize.requires_grad_(False)
    book = _start(model.train(), pixels, generator)
    model.to(device)
    book.to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state = restore(parts := _parts(model, book, generator), [optimizer], state or State())
    generator.set_state(parts["generator"])
    with whole_steps, track("picture tokenizer", steps, done=state.step) as advance:
        for step in range(state.step, steps):
            patches = F.pixel_unshuffle(_batch(pixels, generator), PATCH).to(device)
            latents = model.encode(patches).latents
            flat = _vectors(latents).detach()
            ids = nearest(flat, book.vectors)
            codes = book.vectors[ids].view_as(latents.movedim(1, -1)).movedim(-1, 1)
            restored = model.decode(latents + (codes - latents).detach(), force_not_quantize=True).sample
            error = F.mse_loss(restored, patches)
            loss = error + COMMITMENT * F.mse_loss(latents, codes)
            book.follow(flat, ids)
            if step < REVIVE_UNTIL * steps and step % REVIVE_EVERY == 0:
                book.revive(book.counts < UNUSED, flat, generator)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * learning_rate_share(step, steps)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, 1.0)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise NonFiniteError(f"picture tokenizer, step {step}: loss {loss.item()}, gradient norm {norm.item()}")
            optimizer.step()
            state.step = step + 1
            advance(loss=loss.item(), psnr=decibels(error.item()))
            number = stop_signal()
            if number or state.step == steps or (checkpoint_every and state.step % checkpoint_every == 0):
                on_checkpoint(snapshot(_parts(model, book, generator), [optimizer], state))
            if number:
                told = f"stopped by signal {number} after step {state.step} of the picture tokenizer"
                raise Interrupted(number, f"{told}; --resume continues")
    return model.cpu().eval()


def _parts(model: VQModel, book: CodeBook, generator: torch.Generator) -> dict[str, Tensor]:
    """What training changes, besides the optimizer's state."""
    averages = {"book.counts": book.counts, "book.sums": book.sums}
    return {**model.state_dict(), **averages, "generator": generator.get_state()}


def new_vq(image_size: int, num_codes: int) -> VQModel:
    """An untrained network over patches, (3 * PATCH^2) channels at S / PATCH; its `config.json` says everything."""
    return VQModel(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        latent_channels=CODE_DIM,
        vq_embed_dim=CODE_DIM,
        num_vq_embeddings=num_codes,
        norm_num_groups=1,
        sample_size=image_size // PATCH,
    )


class CodeBook:
    """K codes that follow their latents: moving averages of counts (K,) and sums (K, D). No gradient."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors  # (K, D), updated in place: the quantiser's own embedding
        self.counts = torch.ones(len(vectors))
        self.sums = vectors.clone()

    def to(self, device: torch.device | str) -> None:
        self.vectors.data, self.counts, self.sums = (
            values.to(device) for values in (self.vectors.data, self.counts, self.sums)
        )

    def start(self, latents: Tensor, per_step: int, generator: torch.Generator, rounds: int = 15) -> None:
        """k-means on latents (M, D); the averages start as those of a step with `per_step` vectors."""
        self.revive(torch.ones(len(self.vectors), dtype=torch.bool), latents, generator)
        for _ in range(rounds):
            self._move(*self._gather(latents, nearest(latents, self.vectors)), decay=0.0)
            self.revive(self.counts < UNUSED, latents, generator)
        self.counts *= per_step / len(latents)
        self.sums *= per_step / len(latents)

    def follow(self, latents: Tensor, ids: Tensor) -> None:
        """One step of the moving averages."""
        self._move(*self._gather(latents, ids), decay=BOOK_DECAY)

    def revive(self, unused: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        """Put the unused codes (K,) bool onto latents (M, D) drawn at random."""
        codes = unused.nonzero()[:, 0]
        drawn = torch.randint(len(latents), (len(codes),), generator=generator).to(latents.device)
        self.vectors[codes] = self.sums[codes] = latents[drawn]
        self.counts[codes] = 1.0

    def _gather(self, latents: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(ids, minlength=len(self.counts)).float()
        return counts, torch.zeros_like(self.sums).index_add_(0, ids, latents)

    def _move(self, counts: Tensor, sums: Tensor, decay: float) -> None:
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        used = self.counts > 1e-3
        self.vectors[used] = self.sums[used] / self.counts[used, None]


def nearest(latents: Tensor, vectors: Tensor) -> Tensor:
    """Latents (M, D), codes (K, D) -> (M,) ids by Euclidean distance."""
    norms = vectors.square().sum(1)
    return torch.cat([torch.addmm(norms, part, vectors.T, alpha=-2).argmin(1) for part in latents.split(16384)])


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak at a step: linear warm-up, cosine to 0.01."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def decibels(squared_error: float) -> float:
    """Peak signal-to-noise ratio of values in [-1, 1] with this mean squared error."""
    return 10 * math.log10(4 / max(squared_error, 1e-12))


@torch.no_grad()
def _start(model: VQModel, pixels: Tensor, generator: torch.Generator) -> CodeBook:
    """Network as principal components, code book as k-means of what it then encodes."""
    chosen = torch.randperm(len(pixels), generator=generator)[:PICTURES_TO_START]
    patches = F.pixel_unshuffle(to_unit(pixels[chosen]), PATCH)
    start_as_components(model, _vectors(patches))
    book = CodeBook(model.quantize.embedding.weight)
    latents = torch.cat([_vectors(model.encode(part).latents) for part in patches.split(200)])
    book.start(latents, BATCH_SIZE * len(latents) // len(patches), generator)
    return book


@torch.no_grad()
def start_as_components(model: VQModel, patches: Tensor) -> None:
    """Make the network the projection on the D first principal components of patches (M, C), and back."""
    mean = patches.mean(0)
    _, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean))
    basis, same = vectors.flip(1)[:, :CODE_DIM].T, torch.eye(CODE_DIM)
    for module in [*model.encoder.modules(), *model.decoder.modules()]:
        for silent in (getattr(module, "conv2", None), *getattr(module, "to_out", [])[:1]):
            if silent is not None:  # residual branches start at zero
                nn.init.zeros_(silent.weight)
                nn.init.zeros_(silent.bias)
    for conv in (model.quant_conv, model.post_quant_conv):
        conv.weight.copy_(same[:, :, None, None])
        nn.init.zeros_(conv.bias)
    _make_linear(model.encoder, basis, -basis @ mean, same, torch.zeros(CODE_DIM))
    _make_linear(model.decoder, same, torch.zeros(CODE_DIM), basis.T, mean)


def _make_linear(half: Any, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> None:
    """`outer @ (inner @ x + inner_bias) + outer_bias` through norm and SiLU, as silu(a) - silu(-a) = a.

    Two constant channels, +-CARRIER, dominate the group's variance, so that the norm is nearly a fixed scale.
    """
    count = len(inner)
    conv, norm, out = half.conv_in, half.conv_norm_out, half.conv_out
    conv.weight[: 2 * count + 2] = 0
    conv.weight[: 2 * count, :, 1, 1] = torch.cat([inner, -inner])
    conv.bias[: 2 * count + 2] = torch.cat([inner_bias, -inner_bias, torch.tensor([CARRIER, -CARRIER])])
    norm.weight[: 2 * count] = CARRIER * math.sqrt(2 / WIDTH)
    out.weight.mul_(0.1)
    out.weight[:, : 2 * count + 2] = 0
    out.weight[:, : 2 * count, 1, 1] = torch.cat([outer, -outer], 1)
    out.bias.copy_(outer_bias)


def _vectors(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B * h * w, D)."""
    return maps.movedim(1, -1).flatten(0, -2)


def _batch(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """B random pictures, each mirrored with probability one half -> (B, 3, S, S) in [-1, 1]."""
    rows = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
    flipped = torch.rand(BATCH_SIZE, generator=generator) < 0.5
    batch = to_unit(pixels[rows])
    return torch.where(flipped[:, None, None, None], batch.flip(-1), batch)
