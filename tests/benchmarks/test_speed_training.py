"""The training step that is timed, on a tiny model. Alone: pytest tests/benchmarks/test_speed_training.py"""

import pytest
import torch

from hypergen.text.model import TextModel
from tests.benchmarks.scripts import load
from tests.text import tiny

speed_training = load("speed_training")


@pytest.fixture
def model():
    return TextModel(tiny.causal("llama"))


@pytest.fixture
def tokens():
    count = speed_training.STEPS * speed_training.BATCH
    return torch.randint(5, tiny.NUM_TOKENS, (count, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("last", [2, 0])
def test_our_loss_is_that_of_the_plain_loop(model, tokens, last):
    ours = speed_training.OurTraining(model, tokens, last)
    assert ours.agrees_with_uncached()
    assert ours() > 0 and ours.set_up >= 0
    assert ours.agrees_with_uncached()  # each call starts from the same weights


def test_the_plain_loop_trains_the_blocks_named_and_what_follows_them(model, tokens):
    loop = speed_training.FrozenLoop(model, tokens, 1)
    trained = {name for name, parameter in loop.causal.named_parameters() if parameter.requires_grad}
    assert any("layers.3." in name for name in trained) and not any("layers.2." in name for name in trained)
    assert any("norm.weight" in name for name in trained)
    before = [parameter.clone() for parameter in model.parameters()]
    assert loop.epoch_loss() > 0
    assert all(one.equal(other) for one, other in zip(before, model.parameters(), strict=True))  # it trains a copy


def test_operations_are_counted_by_weight(model):
    block = sum(parameter.numel() for parameter in model.blocks[-1].parameters())
    head = model.causal.get_output_embeddings().weight
    tied = head is model.causal.get_input_embeddings().weight
    assert speed_training.operations(model, 1) == 6 * block + (4 if tied else 6) * head.numel()
    assert speed_training.operations(model, 0) == 6 * len(model.blocks) * block + 6 * head.numel()
