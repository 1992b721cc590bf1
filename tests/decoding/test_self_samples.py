"""The training set drawn from the base itself. Alone: pytest tests/decoding/test_self_samples.py"""

import pytest
import torch

from hypergen.decoding import self_samples
from hypergen.decoding.self_samples import sample_training_set
from tests.toy.adapter import toy
from tests.toy.config import Settings


def test_sequences_of_the_asked_shape_from_the_start_token_on():
    modality = toy()
    tokens = sample_training_set(modality, 70, seed=0, purpose="training")
    assert tokens.shape == (70, 16) and tokens.dtype == torch.int64 and tokens.device.type == "cpu"
    assert (tokens[:, 0] == modality.start_token).all()
    assert tokens.min() >= 0 and tokens.max() < modality.model.num_tokens


def test_seed_and_purpose_decide_and_nothing_else(monkeypatch):
    modality = toy()
    first = sample_training_set(modality, 8, seed=0, purpose="training")
    torch.rand(3)
    monkeypatch.setattr(self_samples, "BATCH_SIZE", 3)
    assert sample_training_set(modality, 8, seed=0, purpose="training").equal(first)
    assert sample_training_set(modality, 4, seed=0, purpose="training").equal(first[:4])
    assert not sample_training_set(modality, 8, seed=1, purpose="training").equal(first)
    assert not sample_training_set(modality, 8, seed=0, purpose="held-out").equal(first)


def test_they_follow_the_distribution_of_the_base():
    """At temperature 1 with nothing cut but the nucleus: first tokens come as often as the base says."""
    modality = toy(Settings(sequence_length=2))
    with torch.no_grad():
        modality.model.output.weight[:, :].zero_()
        modality.model.output.weight[3] = 2 * modality.model.norm.weight  # some ids likelier, all 18 possible
        likely = modality.model(torch.tensor([[modality.start_token]]))[0, -1].softmax(-1)
    tokens = sample_training_set(modality, 2000, seed=0, purpose="training")[:, 1]
    share = torch.bincount(tokens, minlength=18) / 2000
    kept = share > 0
    assert likely[kept].sum() >= self_samples.TOP_P - 1e-6
    torch.testing.assert_close(share[kept], likely[kept] / likely[kept].sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize("count", [1, 65])
def test_any_count(count):
    assert len(sample_training_set(toy(Settings(sequence_length=8)), count, seed=0, purpose="training")) == count
