"""Compare generated pictures with real ones: KID, FID, precision and recall, and the nearest training picture.

All but the last work on features (N, D) of any network; that of `features` needs no download.

Shape letters: B generated, M real, N training pictures, D features, S side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.errors import InputError
from hypergen.image.pixels import chunks
from hypergen.modality import Metric
from hypergen.runtime import dependencies
from hypergen.runtime.progress import Advance, no_progress

TORCHMETRICS = "torchmetrics>=1.8"  # for pip
LEAST_FOR_FID = 2048  # pictures; a covariance of 2,048 features has no full rank from fewer, and the bias is large
NEIGHBOURS = 3  # k of the published precision and recall
CHUNK = 256  # training pictures held as floats at once

PICTURE_METRICS = {
    "kid": Metric(
        head="KID",
        meaning="kernel distance of completed to original pictures as two sets; 0 is alike",
        better="lower",
    ),
    "fid": Metric(
        head="FID",
        meaning="Frechet distance of completed to original pictures as two sets; 0 is alike",
        better="lower",
    ),
    "precision": Metric(
        head="precision",
        meaning="share of completed pictures that lie among the original ones",
        better="higher",
    ),
    "recall": Metric(
        head="recall",
        meaning="share of original pictures that lie among the completed ones",
        better="higher",
    ),
    "nearest_training": Metric(
        head="nearest training",
        meaning="distance to the nearest training picture, RMS grey levels of 255; 0 is a copy",
        decimals=1,
    ),
}


def kid(generated: Tensor, real: Tensor) -> float:
    """Compute the kernel distance of features (B, D) and (M, D): the unbiased squared MMD under (x y / D + 1)^3.

    0 where the two sets are alike, also slightly below; no upper end. Taken over all features at once, the first of the
    larger set, so there is no random choice of subsets. Computed by torchmetrics.
    Source: Binkowski et al., arXiv 1801.01401.

    Raises:
        InputError: torchmetrics is not installed, or a side has fewer than 2 pictures.
    """
    count = min(len(generated), len(real))
    if count < 2:
        raise InputError(f"KID of {len(generated)} against {len(real)} pictures: at least 2 of each are needed")
    mmd = dependencies.load_optional("torchmetrics.image.kid", TORCHMETRICS, "KID").poly_mmd
    return float(mmd(real[:count].double(), generated[:count].double()))


def kid_values(generated: Tensor, real: Tensor) -> Tensor:
    """Share `kid` out over the pictures: (B, D) and (M, D) -> (min(B, M),) whose mean is the KID.

    An interval of that mean is one of the KID. Each value is the mean plus the jackknife's estimate of what the picture
    adds, together with the real one in its place (of the same prompt). Drawing pictures again instead would put copies
    among the pairs, and a copy is too alike.
    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 11 (pseudo-values).

    Raises:
        InputError: torchmetrics is not installed, or a side has fewer than 3 pictures.
    """
    count = min(len(generated), len(real))
    if count < 3:
        raise InputError(f"interval of KID of {len(generated)} against {len(real)} pictures: at least 3 are needed")
    ours, theirs = generated[:count].double(), real[:count].double()
    within = sum(_without_each(_kernel(one, one).fill_diagonal_(0)) for one in (ours, theirs))
    across = _without_each(_kernel(ours, theirs))
    without = within / ((count - 1) * (count - 2)) - 2 * across / (count - 1) ** 2
    return kid(generated, real) - (count - 1) * (without - without.mean())


def fid(generated: Tensor, real: Tensor) -> float:
    """Compute the Frechet distance between Gaussians fitted to features (B, D) and (M, D), 0 or more.

    Computed by torchmetrics. Its bias falls only slowly with the number of pictures, so small sets are refused; `kid`
    has no such bias.
    Source: Heusel et al., arXiv 1706.08500.

    Raises:
        InputError: a side has fewer than 2,048 pictures, or torchmetrics is not installed.
    """
    if min(len(generated), len(real)) < LEAST_FOR_FID:
        sizes = f"{len(generated)} against {len(real)} pictures"
        raise InputError(f"FID of {sizes}: at least {LEAST_FOR_FID:,} of each are needed; KID is used for fewer")
    network = nn.Identity()
    network.num_features = torch.tensor(real.shape[1])
    library = dependencies.load_optional("torchmetrics.image.fid", TORCHMETRICS, "FID")
    distance = library.FrechetInceptionDistance(feature=network)
    distance.update(real.double(), real=True)
    distance.update(generated.double(), real=False)
    return float(distance.compute())


def coverage_values(generated: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, Tensor]:
    """Compute improved precision and recall on features (B, D) and (M, D), 1 or 0 for each picture.

    `precision` (B,): 1 where a generated picture lies within the distance from some real one to its k-th nearest other
    real one; its mean is the share of generated pictures that look real. `recall` (M,): the same with the sides
    exchanged; its mean is the share of real pictures that the generator covers.
    Source: Kynkaanniemi et al., arXiv 1904.06991, with its k = 3.

    Raises:
        InputError: a side has no more than k pictures.
    """
    if min(len(generated), len(real)) <= neighbours:
        sizes = f"{len(generated)} against {len(real)} pictures"
        raise InputError(f"precision and recall of {sizes}: more than {neighbours} of each are needed")
    return {
        "precision": _inside(generated, real, neighbours),
        "recall": _inside(real, generated, neighbours),
    }


def nearest_training_values(
    generated: Tensor, training: Tensor, first_row: int = 0, *, advance: Advance = no_progress
) -> Tensor:
    """Compute the distance from each picture to the nearest training picture: -> (B,).

    Root mean square over pixels and colours, 0 (a copy) to 255 grey levels; nan where there is no training picture.
    A smooth picture is nearer to anything than a detailed one: read it beside the value of the originals.
    Source: the usual nearest-neighbour check for memorization, in numbers.

    Args:
        generated: (B, 3, S, S) uint8.
        training: (N, 3, S, S) uint8.
        first_row: of pixels; the rows above it, which the prompt gave, do not count.
        advance: told of each chunk of training pictures.
    """
    flat = generated[:, :, first_row:].flatten(1).float()
    nearest = torch.full((len(flat),), torch.inf)
    for rows in chunks(len(training), CHUNK):
        others = training[rows, :, first_row:].flatten(1).float()
        nearest = torch.minimum(nearest, _distances(flat, others).amin(1))
        advance(len(others))
    return (nearest / flat.shape[1] ** 0.5).double().where(nearest < torch.inf, torch.nan)


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """Compute the kernel of KID: (n, D) and (n, D) -> (n, n)."""
    return (left @ right.T / left.shape[1] + 1) ** 3


def _without_each(matrix: Tensor) -> Tensor:
    """Sum up a matrix without row and column i, for every i: (n, n) -> (n,)."""
    return matrix.sum() - matrix.sum(0) - matrix.sum(1) + matrix.diagonal()


def _inside(points: Tensor, centres: Tensor, neighbours: int) -> Tensor:
    """Mark points that are no farther from a centre than its k-th neighbour: (B, D), (M, D) -> (B,), 1 or 0."""
    points, centres = points.double(), centres.double()
    radii = _distances(centres, centres).fill_diagonal_(torch.inf).kthvalue(neighbours, 1).values
    return (_distances(points, centres) <= radii).any(1).double()


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """Compute distances (B, D), (M, D) -> (B, M), exactly 0 between equal rows."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
