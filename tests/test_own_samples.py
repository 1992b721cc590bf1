"""The training set drawn from the base itself. Alone: pytest tests/test_own_samples.py"""

import pytest
import torch

from hypergen import own_samples
from hypergen.own_samples import draw
from tests.toy.modality import toy


def test_sequences_of_the_asked_shape_from_the_start_token_on():
    modality = toy()
    tokens = draw(modality, 70, 16, 0, "training")
    assert tokens.shape == (70, 16) and tokens.dtype == torch.int64 and tokens.device.type == "cpu"
    assert (tokens[:, 0] == modality.start_token).all()
    assert tokens.min() >= 0 and tokens.max() < modality.model.num_tokens


def test_seed_and_purpose_decide_and_nothing_else(monkeypatch):
    modality = toy()
    first = draw(modality, 8, 16, 0, "training")
    torch.rand(3)
    monkeypatch.setattr(own_samples, "BATCH_SIZE", 3)
    assert draw(modality, 8, 16, 0, "training").equal(first)
    assert draw(modality, 4, 16, 0, "training").equal(first[:4])
    assert not draw(modality, 8, 16, 1, "training").equal(first)
    assert not draw(modality, 8, 16, 0, "held-out").equal(first)


def test_they_follow_the_distribution_of_the_base():
    """At temperature 1 with nothing cut but the nucleus: first tokens come as often as the base says."""
    modality = toy()
    with torch.no_grad():
        modality.model.output.weight[:, :].zero_()
        modality.model.output.weight[3] = 2 * modality.model.norm.weight  # some ids likelier, all 18 possible
        likely = modality.model(torch.tensor([[modality.start_token]]))[0, -1].softmax(-1)
    tokens = draw(modality, 2000, 2, 0, "training")[:, 1]
    share = torch.bincount(tokens, minlength=18) / 2000
    kept = share > 0
    assert likely[kept].sum() >= own_samples.TOP_P - 1e-6
    torch.testing.assert_close(share[kept], likely[kept] / likely[kept].sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize("count", [1, 65])
def test_any_count(count):
    assert len(draw(toy(), count, 8, 0, "training")) == count
