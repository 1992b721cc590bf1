"""Generated pictures against training and held-out ones, with everything about the real ones computed once.

Does not know: how pictures were generated, tables.

Shape letters: B completions, N training pictures, M originals, P prompt, S completion, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from PIL import Image
from torch import Tensor

from hypergen import extras
from hypergen.image.distances import (
    LEAST_FOR_FID,
    NEIGHBOURS,
    coverage_values,
    fid,
    kid_values,
    nearest_training_values,
)
from hypergen.image.features import LABEL, features
from hypergen.image.pixels import to_pixels

Draw = Callable[[Sequence[Tensor], Tensor], list[Image.Image]]  # prompts (P,) each, completions (B, S) -> pictures


@final
class ImageYardstick:
    """Completed pictures against the codec's own rendering of training pictures and originals, so that what the codec
    loses counts on neither side; see `modality.Yardstick`. Completions of the originals' own prompts share those, which
    makes the two sets more alike than independent ones, for every model by as much. Of the originals themselves only
    `nearest_training` is measured: a set beside itself has precision and recall 1 and a KID below 0, whatever it is."""

    def __init__(self, draw: Draw, training: Tensor, originals: Tensor, width: int):
        """Training (N, T) and originals (M, T), start token included, on a grid `width` codes wide."""
        self._draw, self._width, self._originals = draw, width, originals
        self._training = self._pixels(training[:, :1], training[:, 1:])
        real = features(self._pixels(originals[:, :1], originals[:, 1:]))
        self._centre, self._scale = real.mean(0), real.std(0, correction=0).clamp(min=1e-6)
        self._real = self._scaled(real)

    def measure(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """(B, P) and completions (B, S) -> `nearest_training`, `precision`, `kid` (B,), `recall` (M,), `fid` ()."""
        pixels = self._pixels(prompts, completions)
        first_row = (prompts.shape[1] - 1) // self._width * (pixels.shape[3] // self._width)
        values = {"nearest_training": nearest_training_values(pixels, self._training, first_row)}
        if torch.cat([prompts, completions], 1).equal(self._originals):
            return values
        generated = self._scaled(features(pixels))
        count = min(len(generated), len(self._real))
        if count > NEIGHBOURS:
            values |= coverage_values(generated, self._real)
        if count > 2 and extras.is_installed("torchmetrics"):
            values["kid"] = kid_values(generated, self._real)
            if count >= LEAST_FOR_FID:
                values["fid"] = torch.tensor(fid(generated, self._real), dtype=torch.float64)
        return values

    def notes(self, num_completions: int) -> dict[str, str]:
        """Name -> how that measure of so many completions is computed, or why it is not."""
        count = min(num_completions, len(self._real))
        sizes = f"{num_completions} against {len(self._real)} pictures"
        if not extras.is_installed("torchmetrics"):
            kernel = gaussian = f"not measured: {extras.how_to_install('torchmetrics')}"
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
        """(B, P) and (B, S) -> (B, 3, S, S) uint8."""
        pictures = self._draw(list(prompts), completions)
        return to_pixels(pictures, pictures[0].width)

    def _scaled(self, values: Tensor) -> Tensor:
        """Each feature centred and scaled to unit variance over the originals."""
        return (values - self._centre) / self._scale
