"""The transformer against transformers' ImageGPT. Alone: pytest tests/image/test_transformer.py"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from hypergen import lean
from hypergen.errors import InputError
from hypergen.generation import generate
from hypergen.image.checkpoint import load_transformer, save_transformer
from hypergen.image.transformer import TransformerConfig, new_transformer

NUM_CODES, NUM_POSITIONS = 20, 16
VARIANTS = [
    {},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"n_inner": 40, "layer_norm_epsilon": 1e-3},
    {"reorder_and_upcast_attn": True},
]


def reference(folder, **changes):
    """A random ImageGPT of transformers, with weights large enough that every part of it matters, saved."""
    shape = {"vocab_size": NUM_CODES + 1, "n_positions": NUM_POSITIONS, "n_embd": 32, "n_layer": 3, "n_head": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ImageGPTForCausalImageModeling(ImageGPTConfig(**shape | changes)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.2)
    model.save_pretrained(folder)
    return model


def started(count, length, seed=0):
    codes = torch.randint(NUM_CODES, (count, length), generator=torch.Generator().manual_seed(seed))
    codes[:, 0] = NUM_CODES
    return codes


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_same_logits_as_transformers(changes, tmp_path):
    theirs, tokens = reference(tmp_path, **changes), started(4, NUM_POSITIONS)
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
        found = load_transformer(tmp_path)(tokens)
    assert found.shape == (4, NUM_POSITIONS, NUM_CODES)
    torch.testing.assert_close(found, expected[..., :NUM_CODES], rtol=0, atol=1e-4)


@pytest.mark.parametrize("large_cache", [lean.LARGE_CACHE, 0], ids=["fits", "beyond the processor's caches"])
@pytest.mark.parametrize("prompt_length", [1, 5])
def test_same_greedy_ids_as_transformers(prompt_length, large_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(lean, "LARGE_CACHE", large_cache)
    monkeypatch.setattr(lean, "RECENT", 3)
    theirs, prompt = reference(tmp_path), started(3, prompt_length)
    new = NUM_POSITIONS + 1 - prompt_length
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert generate(load_transformer(tmp_path), prompt, new).equal(expected[:, prompt_length:])


def test_ours_opens_in_transformers(tmp_path):
    shape = TransformerConfig(num_codes=NUM_CODES, num_positions=NUM_POSITIONS, width=32, num_layers=2, num_heads=4)
    ours, tokens = new_transformer(shape, 0), started(2, NUM_POSITIONS)
    save_transformer(ours, tmp_path)
    theirs, report = ImageGPTForCausalImageModeling.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits[..., :NUM_CODES], ours(tokens), rtol=0, atol=1e-4)


def test_through_transformers_and_back(tmp_path):
    reference(tmp_path / "a")
    first = load_transformer(tmp_path / "a")
    save_transformer(first, tmp_path / "b")
    ImageGPTForCausalImageModeling.from_pretrained(tmp_path / "b").save_pretrained(tmp_path / "c")
    again = load_transformer(tmp_path / "c")
    assert again.config == first.config
    assert all(weight.equal(again.state_dict()[name]) for name, weight in first.state_dict().items())


def test_masks_of_old_checkpoints_are_passed_over(tmp_path):
    reference(tmp_path)
    path = tmp_path / "model.safetensors"
    mask = torch.ones(1, 1, NUM_POSITIONS, NUM_POSITIONS, dtype=torch.bool)
    expected = load_transformer(tmp_path).state_dict()
    save_file(load_file(path) | {"transformer.h.0.attn.bias": mask}, path, metadata={"format": "pt"})
    assert load_transformer(tmp_path).state_dict().keys() == expected.keys()


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


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "gpt2"), ("activation_function", "relu"), ("tie_word_embeddings", True), ("n_head", 5),
     ("n_embd", "32"), ("vocab_size", 1), ("n_layer", 0), ("layer_norm_epsilon", -1), ("scale_attn_weights", 1)],
)  # fmt: skip
def test_unsupported_configuration_is_named(key, value, tmp_path):
    reference(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=key) as error:
        load_transformer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["missing", "unexpected", "shape", "nan"])
def test_wrong_weights_are_named(case, tmp_path):
    reference(tmp_path)
    path = tmp_path / "model.safetensors"
    weights, name = load_file(path), "transformer.h.1.mlp.c_fc.bias"
    if case == "missing":
        del weights[name]
    elif case == "unexpected":
        name = "extra.weight"
        weights[name] = torch.ones(2)
    else:
        weights[name] = torch.ones(3) if case == "shape" else weights[name] * torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=name) as error:
        load_transformer(tmp_path)
    assert "\n" not in str(error.value)
