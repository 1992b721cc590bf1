"""Compute the metrics that compare completed pictures with training and held-out ones.

Everything about the real pictures is computed once, since every row of a comparison asks for it again.

Shape letters: B completions, N training pictures, M originals, P prompt, S completion, and side in
pixels (B, 3, S, S).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from PIL import Image
from torch import Tensor

from hypergen.image.distribution_metrics import (
    LEAST_FOR_FID,
    NEIGHBOURS,
    TORCHMETRICS,
    coverage_values,
    fid,
    kid_values,
    nearest_training_values,
)
from hypergen.image.features import LABEL, features
from hypergen.image.pixels import to_pixels
from hypergen.runtime import dependencies
from hypergen.runtime.progress import track

Render = Callable[[Sequence[Tensor], Tensor], list[Image.Image]]  # prompts (P,) each, completions (B, S) -> pictures


@final
class ImageReferenceMetrics:
    """Compare completed pictures with training pictures and originals; see `modality.ReferenceMetrics`.

    Both are taken as the codec renders them, so that its losses count on neither side. Completions of the originals'
    own prompts share those, which makes the two sets more alike than independent ones, for every model by as much. Of
    the originals themselves only `nearest_training` is computed: any set beside itself has precision and recall 1 and
    a KID below 0.
    """

    def __init__(self, render: Render, training: Tensor, originals: Tensor, width: int):
        """Embed the real pictures.

        Args:
            render: draws prompts and their completions.
            training: (N, T), start token included.
            originals: (M, T), start token included.
            width: codes in a row of the grid.
        """
        self._render, self._width, self._originals = render, width, originals
        self._training = self._pixels(training[:, :1], training[:, 1:])
        real = features(self._pixels(originals[:, :1], originals[:, 1:]))
        self._mean, self._deviation = real.mean(0), real.std(0, correction=0).clamp(min=1e-6)
        self._real = self._standardize(real)

    def compute(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute: (B, P), (B, S) -> `nearest_training`, `precision`, `kid` (B,), `recall` (M,), `fid` ()."""
        pixels = self._pixels(prompts, completions)
        first_row = (prompts.shape[1] - 1) // self._width * (pixels.shape[3] // self._width)
        with track("nearest training picture", len(self._training), transient=True) as advance:
            nearest = nearest_training_values(pixels, self._training, first_row, advance=advance)
        values = {"nearest_training": nearest}
        if torch.cat([prompts, completions], 1).equal(self._originals):
            return values
        generated = self._standardize(features(pixels))
        count = min(len(generated), len(self._real))
        if count > NEIGHBOURS:
            values |= coverage_values(generated, self._real)
        if count > 2 and dependencies.is_installed("torchmetrics"):
            values["kid"] = kid_values(generated, self._real)
            if count >= LEAST_FOR_FID:
                values["fid"] = torch.tensor(fid(generated, self._real), dtype=torch.float64)
        return values

    def describe(self, num_completions: int) -> dict[str, str]:
        """Say by name how a metric of so many completions is computed, or why it is not."""
        count = min(num_completions, len(self._real))
        sizes = f"{num_completions} against {len(self._real)} pictures"
        if not dependencies.is_installed("torchmetrics"):
            kernel = gaussian = f"not measured: {dependencies.how_to_install('torchmetrics', TORCHMETRICS)}"
        else:
            kernel = f"{sizes}; {LABEL}; not comparable with Inception KID"
            gaussian = kernel.replace("KID", "FID")
        if count < LEAST_FOR_FID:
            gaussian = f"not measured: {sizes}, below {LEAST_FOR_FID:,}; KID is used"
        return {
            "kid": kernel,
            "fid": gaussian,
            "precision": f"{sizes}; k = {NEIGHBOURS}; {LABEL}",
            "recall": f"{sizes}; k = {NEIGHBOURS}; {LABEL}",
            "nearest_training": f"{len(self._training)} training pictures as the codec renders them; completed rows",
        }

    def _pixels(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """Render as pixels: (B, P), (B, S) -> (B, 3, S, S) uint8."""
        pictures = self._render(list(prompts), completions)
        return to_pixels(pictures, pictures[0].width)

    def _standardize(self, values: Tensor) -> Tensor:
        """Centre each feature and scale it to unit variance over the originals."""
        return (values - self._mean) / self._deviation
