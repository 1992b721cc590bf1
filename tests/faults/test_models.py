"""Bad model folders (matrix D5): one clear line and exit 2, or a defined
result; nothing is written, no traceback, no cost. Alone: pytest tests/faults/test_models.py"""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

import hypergen
from hypergen.cli import main as cli
from hypergen.errors import InputError
from tests.conftest import FIT
from tests.image import tiny as tiny_image
from tests.text import tiny as tiny_text

pytestmark = pytest.mark.usefixtures("offline")


def changed_config(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def removed(pattern):
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def changed_tokenizer(**changes):
    def damage(folder):
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


BAD_MODELS = {
    "no config": (removed("config.json"), "has no config.json"),
    "no tokenizer": (removed("token*"), "has no tokenizer"),
    "no weights": (removed("*.safetensors"), "has no weights"),
    "broken config": (written("config.json", b'{"model_type": '), "config.json: is not JSON"),
    "deep config": (written("config.json", b"[" * 10**5), "config.json: is nested deeper than 64"),
    "unknown type": (changed_config(model_type="nonsense"), "config.json cannot be read"),
    "encoder-decoder": (changed_config(model_type="t5", is_encoder_decoder=True), "is an encoder-decoder"),
    "no language model": (changed_config(model_type="vit"), "no causal language model of type 'vit'"),
    "quantised": (changed_config(quantization_config={"quant_method": "gptq", "bits": 4}), "weights are quantised"),
    "vocabulary": (changed_config(vocab_size=299), "its tokenizer has id 299, but the model only ids below 299"),
    "tokenizer of no length": (changed_tokenizer(model_max_length={"a": 1}), "its tokenizer cannot be loaded"),
    "other sizes": (changed_config(hidden_size=64), "its weights cannot be loaded"),
    "a billion layers": (changed_config(num_hidden_layers=10**9), "must be a whole number, at most 1000"),
    "layers as text": (changed_config(num_hidden_layers="4"), "must be a whole number, at most 1000"),
    "cut weights": (written("model.safetensors", bytes(99)), "its weights cannot be loaded"),
    "adapter": (written("adapter_config.json", b"{}"), "is an adapter"),
    "broken record": (written("hypergen.json", b"{"), "hypergen.json: is not JSON"),
    "record of nothing": (written("hypergen.json", b'{"modality": "audio"}'), "is of modality 'audio'"),
    "settings of nothing": (written("hypergen.json", b'{"modality": "text", "settings": 3}'), "must hold an object"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_d5_bad_model_folder(name, text_base, refused, tmp_path):
    damage, said = BAD_MODELS[name]
    shutil.copytree(text_base, tmp_path / "model")
    damage(tmp_path / "model")
    assert said in refused("generate", "model", "--modality", "text", "--device", "cpu", "--prompt", "a")


def pickled(folder, name="pytorch_model.bin"):
    """The same folder with its weights pickled."""
    weights = load_file(folder / "model.safetensors")
    torch.save({key: weight.clone() for key, weight in weights.items()}, folder / name)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("modality", ["text", "image"])
def test_d5_pickled_weights_need_the_flag(modality, text_base, refused, tmp_path):
    if modality == "text":
        shutil.copytree(text_base, tmp_path / "model")
    else:
        tiny_image.base("colors").save(tmp_path / "model")
    expected = {name: weight.clone() for name, weight in load_file("model/model.safetensors").items()}
    pickled(tmp_path / "model")
    assert "only pickled weights, which can run code" in refused("generate", "model", "--prompt", "a")
    with pytest.raises(InputError, match="only pickled weights"):
        hypergen.load("model", device="cpu")
    weights = hypergen.load("model", device="cpu", allow_pickle_weights=True).modality.model.state_dict()
    found = {name.removeprefix("causal."): weight for name, weight in weights.items()}
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_d5_a_record_cannot_allow_pickled_weights(text_base, refused, tmp_path):
    shutil.copytree(text_base, tmp_path / "model")
    pickled(tmp_path / "model")
    written("hypergen.json", b'{"modality": "text", "settings": {"allow_pickle_weights": true}}')(tmp_path / "model")
    assert "--allow-pickle-weights: not an option of modality" in refused("generate", "model", "--prompt", "a")


def test_d5_dropout_and_tied_heads_are_handled(tmp_path):
    tiny_text.modality("gpt2").save(tmp_path / "model")
    changed_config(resid_pdrop=0.5, attn_pdrop=0.5)(tmp_path / "model")
    model = hypergen.load("model", device="cpu").modality.model
    model.train()
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids), model(ids))
    assert torch.allclose(model.head(model.forward_from(model.hidden_before(ids, 2), 2)), model(ids), atol=1e-5)


BAD_CODECS = {
    "sample_size": "x",
    "num_vq_embeddings": 10**12,
    "layers_per_block": 10**9,
    "block_out_channels": [10**6, 10**6],
    "latent_channels": -1,
    "norm_num_groups": -1,
}


@pytest.mark.parametrize("key", BAD_CODECS)
def test_d5_bad_codec(key, tmp_path):
    tiny_image.base("vq").save(tmp_path / "model")
    path = tmp_path / "model" / "codec" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: BAD_CODECS[key]}))
    with pytest.raises(InputError, match=r"codec"):
        hypergen.load("model", device="cpu")


@pytest.mark.parametrize("base", [3, [], {"a": 1}, None, "a\0b", "a" * 300, "../nowhere"])
def test_d5_a_record_with_a_bad_base(base, text_base, text_data, refused, tmp_path, capsys):
    options = [*FIT, "--learning-rate", "1e-3", "--held-out-samples", "4", "--max-new-tokens", "2"]
    assert cli.main(["fit", "--model", text_base, "--data", text_data, *options, "--output", "run"]) == 0
    capsys.readouterr()
    path = tmp_path / "run" / "hypergen.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": base}))
    said = refused("evaluate", "run", "--device", "cpu")
    assert re.search(r"does not say which base|is not on this machine", said)


@pytest.mark.parametrize("size", [{"height": {}, "width": 8}, {"height": 8, "width": []}, [8], "8", True])
def test_d5_bad_size_of_a_palette_s_pictures(size, tmp_path):
    tiny_image.base("colors").save(tmp_path / "model")
    path = tmp_path / "model" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": size}))
    with pytest.raises(InputError, match="must be one number of pixels, or equal height and width"):
        hypergen.load("model", device="cpu")


@pytest.mark.parametrize("change", [{"n_layer": 10**9}, {"n_embd": 7}, {"vocab_size": 5}, {"model_type": "gpt2"}])
def test_d5_bad_transformer(change, tmp_path):
    tiny_image.base("colors").save(tmp_path / "model")
    changed_config(**change)(tmp_path / "model")
    with pytest.raises(InputError, match="model"):
        hypergen.load("model", modality="image", device="cpu")
