"""Fits a VQ tokenizer to pictures: the one loop beside `hyperfit`, because its objective is reconstruction.

An autoencoder first learns without quantisation (warm start), then its latents are clustered into the code book, and
the rest of the steps train through the nearest code with a straight-through gradient (van den Oord et al., 2017,
arXiv 1711.00937). The code book follows its latents as a moving average (its appendix A.1); codes that nothing uses
are moved onto latents of the current batch until REVIVE_UNTIL of the steps.
Does not know: tokens, transformers, files.

Shape letters: N pictures, S side in pixels, B batch, K codes, D code dimension, h w code grid, M = B * h * w.
"""

from __future__ import annotations

import math

import torch
from diffusers import VQModel
from torch import Tensor
from torch.nn import functional as F

from hypergen.image.pixels import to_unit
from hypergen.progress import track

BLOCK_CHANNELS = (32, 64, 96)  # two downsamplings: 32 x 32 pixels -> 8 x 8 codes
CODE_DIM = 16
PATCH = 1
BATCH_SIZE = 64
LEARNING_RATE = 2e-3  # peak; linear warm-up, then cosine to a hundredth
WARM_UP = 0.04  # share of the steps in which the learning rate rises
WARM_START = 0.06  # share of the steps without quantisation
REVIVE_UNTIL = 0.4
REVIVE_EVERY = 10  # steps
UNUSED = 0.1  # a code with a smaller moving-average count than this is unused
BOOK_DECAY = 0.99
COMMITMENT = 0.25
L1_WEIGHT = 0.05


class CodeBook:
    """K codes that follow their latents: moving averages of counts (K,) and sums (K, D). No gradient."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors  # (K, D), updated in place: the quantiser's own embedding
        self.counts = torch.ones(len(vectors), device=vectors.device)
        self.sums = vectors.clone()

    def start(self, latents: Tensor, generator: torch.Generator, rounds: int = 10) -> None:
        """k-means on latents (M, D), from K of them drawn at random."""
        self.revive(torch.ones(len(self.vectors), dtype=torch.bool), latents, generator)
        for _ in range(rounds):
            ids = nearest(latents, self.vectors)
            self._move(*self._gather(latents, ids), decay=0.0)
            self.revive(self.counts < UNUSED, latents, generator)

    def follow(self, latents: Tensor, ids: Tensor) -> None:
        self._move(*self._gather(latents, ids), decay=BOOK_DECAY)

    def revive(self, unused: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        """Put the unused codes (K,) bool onto latents (M, D) drawn at random."""
        codes = unused.nonzero()[:, 0]
        drawn = torch.randint(len(latents), (len(codes),), generator=generator).to(latents.device)
        self.vectors[codes] = self.sums[codes] = latents[drawn].float()
        self.counts[codes] = 1.0

    def _gather(self, latents: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(ids, minlength=len(self.counts)).float()
        return counts, torch.zeros_like(self.sums).index_add_(0, ids, latents.float())

    def _move(self, counts: Tensor, sums: Tensor, decay: float) -> None:
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        used = self.counts > 1e-3
        self.vectors[used] = self.sums[used] / self.counts[used, None]


def nearest(latents: Tensor, vectors: Tensor) -> Tensor:
    """Latents (M, D), codes (K, D) -> (M,) ids by Euclidean distance."""
    return torch.addmm(vectors.square().sum(1), latents.float(), vectors.T, alpha=-2).argmin(1)


def new_vq(image_size: int, num_codes: int) -> VQModel:
    """An untrained tokenizer network; every setting is in its `config.json`."""
    return VQModel(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",) * len(BLOCK_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(BLOCK_CHANNELS),
        block_out_channels=BLOCK_CHANNELS,
        latent_channels=CODE_DIM,
        vq_embed_dim=CODE_DIM,
        num_vq_embeddings=num_codes,
        sample_size=image_size,
    )


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak at a step: linear warm-up, cosine to 0.01."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train_vq(
    pixels: Tensor, num_codes: int, steps: int, *, seed: int = 0, device: str = "cpu", precision: str = "fp32"
) -> VQModel:
    """Pixels (N, 3, S, S) uint8 -> a trained VQModel on the CPU, fp32, evaluation mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_vq(pixels.shape[-1], num_codes).to(device).train()
    model.quantize.requires_grad_(False)
    book = CodeBook(model.quantize.embedding.weight)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    warm_start, revive_until = round(WARM_START * steps), round(REVIVE_UNTIL * steps)
    recent: list[Tensor] = []
    with track("picture tokenizer", steps) as advance:
        for step in range(steps):
            batch = _batch(pixels, generator).to(device)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
                latents = model.encode(F.pixel_unshuffle(batch, PATCH)).latents.float()
                flat = latents.movedim(1, -1).flatten(0, -2)
                commitment = latents.new_zeros(())
                if step < warm_start:
                    recent = [*recent[-15:], flat.detach()]
                    quantised = latents
                else:
                    if step == warm_start:
                        book.start(torch.cat([*recent, flat.detach()]), generator)
                    ids = nearest(flat.detach(), book.vectors)
                    codes = book.vectors[ids].view_as(latents.movedim(1, -1)).movedim(-1, 1)
                    commitment = F.mse_loss(latents, codes)
                    quantised = latents + (codes - latents).detach()
                    book.follow(flat.detach(), ids)
                    if step < revive_until and step % REVIVE_EVERY == 0:
                        book.revive(book.counts < UNUSED, flat.detach(), generator)
                restored = F.pixel_shuffle(model.decode(quantised, force_not_quantize=True).sample.float(), PATCH)
            error = F.mse_loss(restored, batch)
            loss = error + L1_WEIGHT * F.l1_loss(restored, batch) + COMMITMENT * commitment
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            scheduler.step()
            advance(1, loss=loss.item(), psnr=psnr(error.item()))
    return model.cpu().eval()


def psnr(squared_error: float) -> float:
    """Mean squared error of values in [-1, 1] -> decibels, peak to peak."""
    return 10 * math.log10(4 / max(squared_error, 1e-12))


def _batch(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """B random pictures, each mirrored with probability one half -> (B, 3, S, S) in [-1, 1]."""
    rows = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
    flipped = torch.rand(BATCH_SIZE, generator=generator) < 0.5
    batch = to_unit(pixels[rows])
    return torch.where(flipped[:, None, None, None], batch.flip(-1), batch)
