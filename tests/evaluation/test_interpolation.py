"""Weights between two models, of every modality. Alone: pytest tests/evaluation/test_interpolation.py"""

import copy

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from hypergen.errors import InputError
from hypergen.evaluation.interpolation import interpolated, require_alike
from tests.image import tiny as tiny_image
from tests.text import tiny as tiny_text
from tests.toy.adapter import toy

MAKERS = {
    "toy": lambda: toy().model,
    "text": lambda: tiny_text.modality().model,
    "tied text": lambda: tiny_text.modality("gpt2", tie_word_embeddings=True).model,
    "image": lambda: tiny_image.base().model,
}


@pytest.fixture(params=MAKERS)
def pair(request):
    """A base, a run of it with other weights in its last block and after it, and some ids."""
    base = copy.deepcopy(MAKERS[request.param]()).eval()
    trained = copy.deepcopy(base)
    with torch.no_grad():
        for module in (trained.blocks[-1], *trained.final_modules):
            for weight in module.parameters():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return base, trained, torch.arange(24).view(2, 12) % 11


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens)


def test_the_ends_are_the_two_models_bit_for_bit(pair):
    base, trained, tokens = pair
    before = [logits(model, tokens) for model in (base, trained)]
    assert not before[0].equal(before[1])
    for alpha, expected in zip((0.0, 1.0), before, strict=True):
        mixed = interpolated(base, trained, alpha)
        assert logits(mixed, tokens).equal(expected)
    assert [logits(model, tokens).equal(kept) for model, kept in zip((base, trained), before, strict=True)] == [
        True
    ] * 2


def test_between_lies_the_weighted_mean_and_frozen_weights_stay(pair):
    base, trained, _ = pair
    mixed = dict(interpolated(base, trained, 0.3).named_parameters())
    of_base, of_run = dict(base.named_parameters()), dict(trained.named_parameters())
    assert list(mixed) == list(of_run)
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, 0.7 * of_base[name] + 0.3 * of_run[name])
        assert weight.dtype == torch.float32 and not weight.requires_grad
        assert weight.equal(of_run[name]) or not of_base[name].equal(of_run[name])


def test_the_result_decodes_with_its_own_weights(pair):
    """Packed copies of weights are not those of the run."""
    base, trained, tokens = pair
    greedy = DecodingConfig(stop_at_end=False)
    generate(trained, tokens[:, :3], 4, greedy)
    for alpha in (0.0, 0.5):
        mixed = interpolated(base, trained, alpha)
        ids = generate(mixed, tokens[:, :3], 1, greedy)
        assert ids[:, 0].equal(logits(mixed, tokens[:, :3])[:, -1].argmax(-1))
    assert generate(interpolated(base, trained, 0.0), tokens[:, :3], 4, greedy).equal(
        generate(base, tokens[:, :3], 4, greedy)
    )


def test_tied_weights_stay_tied():
    model = MAKERS["tied text"]()
    causal = interpolated(model, model, 0.5).causal
    assert causal.get_input_embeddings().weight is causal.get_output_embeddings().weight


def test_16_bits_become_32_and_buffers_are_those_of_the_run():
    base, trained = toy().model, toy(seed=1).model.bfloat16()
    trained.register_buffer("steps", torch.tensor(7))
    mixed = interpolated(base, trained, 0.5)
    assert {weight.dtype for weight in mixed.parameters()} == {torch.float32}
    assert mixed.steps.item() == 7 and mixed.steps is not trained.steps


def test_other_shapes_and_names_are_one_line():
    with pytest.raises(InputError, match=r"^weight embedding\.weight: \(18, 16\) in the base, \(18, 32\) in the run;"):
        require_alike(toy(width=16).model, toy().model)
    with pytest.raises(InputError, match=r"^weight blocks\.2\.\S+: not there in the base, \(\d.*\) in the run;"):
        require_alike(toy(num_layers=2).model, toy().model)


def test_a_model_in_files_is_one_line():
    with torch.device("meta"):
        away = toy().model
    for which, two in (("base", (away, toy().model)), ("run", (toy().model, away))):
        with pytest.raises(InputError, match=f"^interpolation: weights of the {which} are in files"):
            interpolated(*two, 0.5)
