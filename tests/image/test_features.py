"""The features of an untrained network. Alone: pytest tests/image/test_features.py"""

import torch

from hypergen.image.distribution_metrics import kid
from hypergen.image.features import features, network
from tests.image.tiny import smooth_pixels


def test_features_are_fixed_and_leave_the_random_state_alone():
    network.cache_clear()
    pixels, state = smooth_pixels(5), torch.random.get_rng_state()
    found = features(pixels)
    assert found.shape == (5, 512) and found.dtype == torch.float64
    assert torch.random.get_rng_state().equal(state)
    network.cache_clear()
    torch.testing.assert_close(features(pixels[2:3]), found[2:3], rtol=1e-4, atol=1e-6)
    assert features(smooth_pixels(2, 8)).isfinite().all()


def test_features_see_stripes():
    """Other pictures of the same kind are nearer than the same pictures with their upper rows pulled down."""
    real, others = smooth_pixels(40), smooth_pixels(40, seed=1)
    striped = others.clone()
    striped[:, :, 4:] = others[:, :, 3:4]
    centre, scale = features(real).mean(0), features(real).std(0)
    near, far = (
        kid((features(part) - centre) / scale, (features(real) - centre) / scale) for part in (others, striped)
    )
    assert abs(near) < far / 3


def test_features_do_not_depend_on_the_batch(monkeypatch):
    pixels = smooth_pixels(5)
    expected = features(pixels)
    monkeypatch.setattr("hypergen.image.features.BATCH_PIXELS", 16**2)
    torch.testing.assert_close(features(pixels), expected, rtol=1e-4, atol=1e-6)
