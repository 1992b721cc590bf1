"""Which parameters train: one choice that loop, checkpoint and fingerprint share.

Alone: pytest tests/training/test_parameters.py
"""

import hashlib

import pytest
import torch

from hypergen.errors import InputError
from hypergen.training.loop import hyperfit
from hypergen.training.parameters import (
    base_fingerprint,
    check_last_layers,
    checkpoint_bytes,
    mark_trained,
    trained_parameters,
)
from hypergen.training.plan import TrainingHooks
from tests.toy.model import ToyModel
from tests.training.plans import TiedToy, changed, new_plan, sequences, toy, train, weights


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("last_layers", [1, 2, 3])
def test_last_layers_trains_only_those(kind, last_layers):
    model = toy(kind)
    before = weights(model)
    result, _ = train(model, sequences(10), new_plan(steps=3, last_layers=last_layers))
    prefixes = (*(f"blocks.{index}." for index in range(3 - last_layers, 3)), "norm.", "output.")
    assert changed(before, weights(model)) == {name for name in before if name.startswith(prefixes)}
    assert result.cached == (last_layers < 3)


def test_all_weights_train_by_default():
    model = toy()
    before = weights(model)
    hyperfit(model, sequences(10), new_plan(steps=3, last_layers=1))  # an earlier choice must not linger
    train(model, sequences(10), new_plan(steps=3))
    assert changed(before, weights(model)) == set(before)


def test_more_last_layers_than_blocks():
    with pytest.raises(InputError, match=r"^--last-layers 4: the model has 3 blocks$"):
        train(toy(), sequences(4), new_plan(steps=3, last_layers=4))


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("last_layers", [0, 1, 2, 3])
def test_the_choice_is_pure_and_in_the_models_order(kind, last_layers):
    model = toy(kind).bfloat16()
    names = [name for name, _ in model.named_parameters()]
    trained = trained_parameters(model, last_layers)
    assert list(trained) == [name for name in names if name in trained]
    assert (len(trained) == len(names)) == (last_layers == 0)
    assert all(trained[name] is parameter for name, parameter in model.named_parameters() if name in trained)
    assert all(parameter.requires_grad and parameter.dtype == torch.bfloat16 for parameter in model.parameters())


@pytest.mark.parametrize("last_layers", [0, 1, 3])
def test_what_is_marked_requires_gradients_in_fp32_and_the_rest_stays(last_layers):
    model = toy().bfloat16()
    before = weights(model)
    trained = mark_trained(model, last_layers)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in trained)
        assert parameter.dtype == (torch.float32 if name in trained else torch.bfloat16)
        assert parameter.detach().bfloat16().equal(before[name])
    assert trained.keys() == trained_parameters(model, last_layers).keys()


def test_a_choice_that_is_refused_marks_nothing():
    model = toy()
    mark_trained(model, 1)
    before = [parameter.requires_grad for parameter in model.parameters()]
    for refuse in (mark_trained, trained_parameters, check_last_layers, checkpoint_bytes, base_fingerprint):
        with pytest.raises(InputError, match=r"^--last-layers 4: the model has 3 blocks$"):
            refuse(model, 4)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert check_last_layers(model, 3) is None


@pytest.mark.parametrize("last_layers", [0, 1])
def test_a_checkpoint_has_the_size_that_was_computed(last_layers):
    """Apart from AdamW's step, one number a parameter."""
    model, states = toy(), []
    plan = new_plan(last_layers=last_layers)
    hyperfit(model, sequences(4), plan, TrainingHooks(on_checkpoint=states.append))
    size = sum(tensor.nbytes for tensor in states[-1].tensors.values() if tensor.ndim)
    assert checkpoint_bytes(model, last_layers) == size


def test_the_fingerprint_is_of_all_weights_of_the_base():
    model = toy()
    expected = {
        "frozen weights of SHA-256": hashlib.sha256(),
        "trained weights at the start of SHA-256": hashlib.sha256(),
    }
    for name, weight in model.named_parameters():  # written out: what checkpoints of former versions hold
        is_trained = name.startswith(("blocks.2.", "norm.", "output."))
        digest = list(expected.values())[is_trained]
        digest.update(name.encode() + weight.detach().numpy().tobytes())
    former = base_fingerprint(model, 1)
    assert former == {name: digest.hexdigest() for name, digest in expected.items()}
    whole = base_fingerprint(model, 0)
    assert whole.keys() == {"trained weights at the start of SHA-256"}
    with torch.no_grad():
        for block, name in ((2, "trained weights at the start of SHA-256"), (1, "frozen weights of SHA-256")):
            model.blocks[block].mlp[0].weight[0, 0] += 1
            found = base_fingerprint(model, 1)
            assert [one for one in found if found[one] != former[one]] == [name]
            former = found
            assert base_fingerprint(model, 0) != whole


def test_the_fingerprint_does_not_read_weights_that_are_in_files():
    """And takes any dtype."""
    model = toy().bfloat16()
    whole = base_fingerprint(model, 1)
    model.blocks[0].to("meta")
    assert base_fingerprint(model, 1) != whole


def test_hashing_weights_shows_progress(phases):
    model = toy()
    base_fingerprint(model, 1)
    assert phases() == {}
    count = sum(1 for _ in model.parameters())
    base_fingerprint(model, 1, label="hash")
    assert phases() == {"hash": f"{count}/{count}"}
