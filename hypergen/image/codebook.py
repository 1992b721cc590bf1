"""Fit a codebook to vectors: k-means to start with, moving averages to follow latents that change.

The update is that of VQ-VAE (van den Oord et al., arXiv 1711.00937, appendix A.1), which needs no gradient; codes that
no vector is nearest to are moved onto vectors drawn at random, since nothing else would bring them back.

Shape letters: M vectors, K codes, D code dimension, B pictures, h w code grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

UNUSED = 0.1  # a code with a smaller moving-average count than this is unused
BOOK_DECAY = 0.99
ROWS_AT_ONCE = 16_384  # vectors whose distances to all codes are in memory together


class CodeBook:
    """Hold K codes that follow their vectors, by moving averages of counts (K,) and sums (K, D)."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors  # (K, D), updated in place: the quantizer's own embedding
        self.counts = torch.ones(len(vectors))
        self.sums = vectors.clone()

    def to(self, device: torch.device | str) -> None:
        """Move codes and averages to a device."""
        self.vectors.data = self.vectors.data.to(device)
        self.counts, self.sums = self.counts.to(device), self.sums.to(device)

    def start(self, latents: Tensor, per_step: int, generator: torch.Generator, rounds: int = 15) -> None:
        """Run k-means on vectors (M, D), and leave the averages as a step with `per_step` vectors would."""
        self.revive(torch.ones(len(self.vectors), dtype=torch.bool), latents, generator)
        for _ in range(rounds):
            self._move(*self._gather(latents, nearest(latents, self.vectors)), decay=0.0)
            self.revive(self.counts < UNUSED, latents, generator)
        self.counts *= per_step / len(latents)
        self.sums *= per_step / len(latents)

    def follow(self, latents: Tensor, ids: Tensor) -> None:
        """Update the moving averages by vectors (M, D) and the codes (M,) that are nearest to them."""
        self._move(*self._gather(latents, ids), decay=BOOK_DECAY)

    def revive(self, unused: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        """Put the unused codes, (K,) bool, onto vectors (M, D) drawn at random."""
        codes = unused.nonzero()[:, 0]
        drawn = torch.randint(len(latents), (len(codes),), generator=generator).to(latents.device)
        self.vectors[codes] = self.sums[codes] = latents[drawn]
        self.counts[codes] = 1.0

    def _gather(self, latents: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Count and sum up the vectors of each code: -> (K,) and (K, D)."""
        counts = torch.bincount(ids, minlength=len(self.counts)).float()
        return counts, torch.zeros_like(self.sums).index_add_(0, ids, latents)

    def _move(self, counts: Tensor, sums: Tensor, decay: float) -> None:
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        used = self.counts > 1e-3
        self.vectors[used] = self.sums[used] / self.counts[used, None]


def nearest(latents: Tensor, vectors: Tensor) -> Tensor:
    """Find the nearest code by Euclidean distance: vectors (M, D), codes (K, D) -> ids (M,)."""
    norms = vectors.square().sum(1)
    parts = latents.split(ROWS_AT_ONCE)
    return torch.cat([torch.addmm(norms, part, vectors.T, alpha=-2).argmin(1) for part in parts])


def to_vectors(maps: Tensor) -> Tensor:
    """List the vectors of feature maps: (B, D, h, w) -> (B * h * w, D)."""
    return rearrange(maps, "b d h w -> (b h w) d")


def to_maps(vectors: Tensor, grid: Sequence[int]) -> Tensor:
    """Arrange vectors as feature maps of a grid (h, w): (B * h * w, D) -> (B, D, h, w)."""
    return rearrange(vectors, "(b h w) d -> b d h w", h=grid[0], w=grid[1])
