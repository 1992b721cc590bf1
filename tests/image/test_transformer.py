"""The transformer against transformers' ImageGPT. Alone: pytest tests/image/test_transformer.py"""

import copy
import pickle

import pytest
import torch

from hypergen.decoding.loop import generate
from hypergen.errors import InputError
from hypergen.image.checkpoint import load_transformer
from hypergen.image.transformer import TransformerConfig, new_transformer, pack_weights
from hypergen.kernels import packed_model
from tests.image.imagegpt import NUM_CODES, NUM_POSITIONS, reference, started

VARIANTS = [
    {},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"n_inner": 40, "layer_norm_epsilon": 1e-3},
    {"reorder_and_upcast_attn": True},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_same_logits_as_transformers(changes, tmp_path):
    theirs, tokens = reference(tmp_path, **changes), started(4, NUM_POSITIONS)
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
        found = load_transformer(tmp_path)(tokens)
    assert found.shape == (4, NUM_POSITIONS, NUM_CODES)
    torch.testing.assert_close(found, expected[..., :NUM_CODES], rtol=0, atol=1e-4)


@pytest.mark.parametrize("large_cache", [packed_model.LARGE_CACHE, 0], ids=["fits", "beyond the processor's caches"])
@pytest.mark.parametrize("prompt_length", [1, 5])
def test_same_greedy_ids_as_transformers(prompt_length, large_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_model, "LARGE_CACHE", large_cache)
    monkeypatch.setattr(packed_model, "RECENT", 3)
    theirs, prompt = reference(tmp_path), started(3, prompt_length)
    new = NUM_POSITIONS + 1 - prompt_length
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert generate(load_transformer(tmp_path), prompt, new).equal(expected[:, prompt_length:])


def test_fresh_weights_depend_on_the_seed_alone():
    shape = TransformerConfig(num_codes=8, num_positions=9, width=64, num_layers=8, num_heads=2)
    first, again, other = new_transformer(shape, 3), new_transformer(shape, 3), new_transformer(shape, 4)
    weights = first.state_dict()
    assert all(weight.equal(again.state_dict()[name]) for name, weight in weights.items())
    assert not weights["lm_head.weight"].equal(other.state_dict()["lm_head.weight"])
    assert weights["transformer.h.0.attn.c_proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.1)


def test_too_long_a_sequence():
    shape = TransformerConfig(num_codes=8, num_positions=9, width=8, num_layers=1, num_heads=2)
    with pytest.raises(InputError, match="10 tokens: the model reads at most 9"):
        new_transformer(shape, 0)(torch.zeros(1, 10, dtype=torch.long))


def small(seed=0):
    shape = TransformerConfig(num_codes=8, num_positions=9, width=8, num_layers=2, num_heads=2)
    return new_transformer(shape, seed).eval()


def test_the_start_token_has_an_embedding_and_no_logit():
    model = small()
    assert (model.start_token, model.num_tokens, model.context_length) == (8, 9, 10)
    assert model(torch.full((1, 1), model.start_token)).shape == (1, 1, 8)


def test_decoding_sees_weights_that_changed():
    """A packed copy of the weights must not outlive a step of training, or a change in place."""
    model, prompt = small(), torch.tensor([[8, 1]])
    before, _ = model.prefill(prompt, 2)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.testing.assert_close(model.prefill(prompt, 2)[0], 2 * before)


def test_a_copy_and_a_pickle_decode_alike():
    model, prompt = small(), torch.tensor([[8, 1, 2]])
    logits, _ = model.prefill(prompt, 2)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.prefill(prompt, 2)[0].equal(logits)


def test_prompts_cannot_be_padded_and_pictures_end():
    model = small()
    with pytest.raises(InputError, match="prompts cannot be padded"):
        model.prefill(torch.zeros(2, 3, dtype=torch.long), 2, torch.tensor([0, 1]))
    _, kv_cache = model.prefill(torch.zeros(1, 9, dtype=torch.long), 5)
    with pytest.raises(InputError, match="10 tokens: the model reads at most 9"):
        model.decode_step(torch.tensor([1]), kv_cache)


def test_activations_wait_in_one_place():
    assert list(small().cache_stages(1)) == [1]


def test_packed_weights_give_the_module_s_logits():
    model, tokens = small(3), torch.tensor([[8, 1, 2, 3], [8, 7, 0, 7]])
    with torch.no_grad():
        found, _ = pack_weights(model).prefill(tokens, 9)
        torch.testing.assert_close(found, model(tokens)[:, -1], rtol=1e-5, atol=1e-5)
