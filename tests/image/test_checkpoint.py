"""Checkpoints of the transformer, read and written as transformers has them.

Alone: pytest tests/image/test_checkpoint.py
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ImageGPTForCausalImageModeling

from hypergen.errors import InputError
from hypergen.image.checkpoint import from_json, load_transformer, save_transformer, to_json
from hypergen.image.transformer import TransformerConfig, new_transformer
from tests.image.imagegpt import NUM_CODES, NUM_POSITIONS, reference, started


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


def test_a_shape_survives_its_json():
    shape = TransformerConfig(
        num_codes=8, num_positions=9, width=12, num_layers=2, num_heads=3, inner_width=5, norm_epsilon=1e-3,
        scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    assert from_json(to_json(shape), "x") == shape
    assert from_json({"model_type": "imagegpt"}, "x") == TransformerConfig(
        num_codes=512, num_positions=1024, width=512, num_layers=24, num_heads=8
    )


def test_pickled_weights_are_read_only_on_request(tmp_path):
    reference(tmp_path)
    expected, weights = load_transformer(tmp_path).state_dict(), load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights are read from one safetensors file only"):
        load_transformer(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="has only pickled weights, which can run code"):
        load_transformer(tmp_path)
    found = load_transformer(tmp_path, allow_pickle_weights=True).state_dict()
    assert all(expected[name].equal(found[name]) for name in expected)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="must hold weights by name and nothing else"):
        load_transformer(tmp_path, allow_pickle_weights=True)


def test_weights_show_progress_while_they_are_read(tmp_path, phases):
    reference(tmp_path)
    count = len(load_transformer(tmp_path).state_dict())
    assert phases() == {"check weights": f"{count}/{count}", "load weights": f"{count}/{count}"}
