"""Distances between sets of pictures, against torchmetrics and numpy.

Alone: pytest tests/image/test_distribution_metrics.py
"""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from hypergen.errors import InputError
from hypergen.image.distribution_metrics import coverage_values, fid, kid, kid_values, nearest_training_values
from hypergen.runtime import dependencies
from tests.image.tiny import smooth_pixels


def two_sets(count, other, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator), 0.5 + 1.5 * torch.randn(other, width, generator=generator)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
def test_kid_against_torchmetrics():
    generated, real = two_sets(40, 40)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=40)
    theirs.update(real.double(), real=True)
    theirs.update(generated.double(), real=False)
    assert kid(generated, real) == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_kid_against_its_formula():
    generated, real = (part.double().numpy() for part in two_sets(20, 30))
    real = real[:20]
    kernel = lambda x, y: (x @ y / 6 + 1) ** 3  # noqa: E731
    within = sum(kernel(part[i], part[j]) for part in (generated, real) for i in range(20) for j in range(20) if i != j)
    across = sum(kernel(x, y) for x in generated for y in real)
    assert kid(*two_sets(20, 30)) == pytest.approx(within / (20 * 19) - 2 * across / 400)


def test_kid_shared_out_by_leaving_each_picture_out():
    generated, real = (part.double() for part in two_sets(12, 15))
    found, whole = kid_values(generated, real), kid(generated, real)
    assert found.mean().item() == pytest.approx(whole)
    kept = [[other for other in range(12) if other != one] for one in range(12)]
    left = torch.tensor([kid(generated[rows], real[rows]) for rows in kept], dtype=torch.float64)
    torch.testing.assert_close(found, whole + 11 * (left.mean() - left))
    with pytest.raises(InputError, match="interval of KID of 2 against 5 pictures: at least 3"):
        kid_values(*two_sets(2, 5))


def test_the_spread_of_what_is_shared_out_is_that_of_kid():
    draws = [two_sets(50, 50, seed=seed) for seed in range(200)]
    spread = torch.tensor([kid(*draw) for draw in draws]).std().item()
    errors = torch.stack([kid_values(*draw).std() / 50**0.5 for draw in draws])
    assert errors.square().mean().sqrt().item() == pytest.approx(spread, rel=0.25)


def test_kid_refuses_a_single_picture():
    with pytest.raises(InputError, match="KID of 1 against 5 pictures: at least 2"):
        kid(*two_sets(1, 5))


def test_fid_is_refused_below_2048_pictures():
    with pytest.raises(
        InputError, match=r"^FID of 2047 against 3000 pictures: at least 2,048 .* KID is used for fewer$"
    ):
        fid(*two_sets(2047, 3000, 2))


def test_fid_against_its_formula():
    generated, real = two_sets(2048, 2100, 3)
    means, covariances = zip(
        *((part.numpy().mean(0), np.cov(part.numpy().T)) for part in (generated, real)), strict=True
    )
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    expected = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1]) - 2 * root
    assert fid(generated, real) == pytest.approx(float(expected), rel=1e-5)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: False)
    with pytest.raises(InputError, match=r"^KID: needs torchmetrics \(pip install 'torchmetrics>=1\.8'\)$"):
        kid(*two_sets(4, 4))


@pytest.mark.parametrize("seed", range(5))
def test_precision_and_recall_against_numpy(seed):
    generated, real = two_sets(15, 20, width=2, seed=seed)
    found = coverage_values(generated, real)
    for name, points, centres in (("precision", generated, real), ("recall", real, generated)):
        points, centres = points.double().numpy(), centres.double().numpy()
        radii = [sorted(np.linalg.norm(centre - centres, axis=1))[3] for centre in centres]  # [0] is itself
        expected = [any(np.linalg.norm(point - centres, axis=1) <= radii) for point in points]
        assert found[name].tolist() == [float(inside) for inside in expected]
    assert bool(found["precision"].any()) and 0 < float(found["recall"].mean()) < 1


def test_precision_and_recall_tell_a_collapse_from_noise():
    _, real = two_sets(4, 30)
    collapsed = coverage_values(real[:1].expand(30, -1), real)
    assert (collapsed["precision"].mean(), collapsed["recall"].sum()) == (1, 1)
    far = coverage_values(real + 100, real)
    assert (far["precision"].sum(), far["recall"].sum()) == (0, 0)
    with pytest.raises(InputError, match="precision and recall of 3 against 30 pictures: more than 3"):
        coverage_values(real[:3], real)


def test_nearest_training_by_hand():
    training = torch.zeros(300, 3, 4, 4, dtype=torch.uint8)
    training[299] += 10
    pictures = torch.full((2, 3, 4, 4), 13, dtype=torch.uint8)
    pictures[1] = 10
    assert nearest_training_values(pictures, training).tolist() == [3.0, 0.0]
    pictures[1, :, :2] = 255
    assert nearest_training_values(pictures, training, first_row=2).tolist() == [3.0, 0.0]
    assert nearest_training_values(pictures, training[:0]).isnan().all()


def test_nearest_training_against_numpy():
    pictures, training = smooth_pixels(3, 8), smooth_pixels(5, 8, seed=1)
    first, second = (part.double().numpy() for part in (pictures, training))
    expected = [min(np.sqrt(np.square(one - other).mean()) for other in second) for one in first]
    assert nearest_training_values(pictures, training).tolist() == pytest.approx(expected)
