"""A saved model loads anywhere; a folder that is no base is refused. Alone: pytest tests/text/test_checkpoint.py"""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)
from transformers.utils import logging

from hypergen.errors import InputError
from hypergen.text.checkpoint import quiet
from hypergen.text.config import Settings
from tests.text import tiny

MODELS = Path(__file__).parents[3] / "shared" / "models"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny.modality().save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "base"))


def _refusal(folder: Path | str, settings: Settings = tiny.SETTINGS) -> str:
    started = time.perf_counter()
    with pytest.raises(InputError) as error:
        tiny.load(folder, settings)
    assert time.perf_counter() - started < 1
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(folder))
    return str(error.value)


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_round_trip_through_transformers(kind, tmp_path):
    modality = tiny.modality(kind)
    modality.save(tmp_path)
    causal = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = modality.encode(tiny.TEXTS)[:3]
    with torch.no_grad():
        assert torch.equal(causal(input_ids=tokens).logits, modality.model.eval()(tokens))
        again = tiny.load(tmp_path)
        assert torch.equal(again.model(tokens), modality.model(tokens))
    names = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("causal.") for name in names)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(tiny.TEXTS)["input_ids"] == modality.tokenizer(tiny.TEXTS)["input_ids"]
    )
    assert causal.generation_config.do_sample is False


def test_files(saved):
    assert {path.name for path in saved.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        tiny.modality().save(tmp_path / "base")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "base").iterdir()}
    assert set(modes.values()) == {mode}, modes


def test_sixteen_bit_weights(tmp_path):
    modality = tiny.modality()
    modality.save(tmp_path, dtype=torch.bfloat16)
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" in weights  # this one is not tied
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    loaded = tiny.load(tmp_path)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}  # the trained ones always are
    assert {weight.dtype for weight in modality.model.parameters()} == {torch.float32}


def test_tied_weights_are_stored_once(tmp_path):
    tiny.modality("gpt2").save(tmp_path, dtype=torch.bfloat16)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = tiny.load(tmp_path).model
    assert model.causal.lm_head.weight is model.causal.transformer.wte.weight


def test_dropout_and_sampling_are_gone(folder):
    _edit(folder, attention_dropout=0.5)
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 3]}')
    loaded = tiny.load(folder)
    assert loaded.model.causal.config.attention_dropout == 0
    loaded.save(folder / "again")
    kept = json.loads((folder / "again" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [0, 3] and kept["do_sample"] is False and "temperature" not in kept


def test_no_model_there(tmp_path, monkeypatch):
    assert _refusal(tmp_path) == f"{tmp_path}: has no config.json; a base is a folder in the layout of save_pretrained"
    assert _refusal(tmp_path / "missing") == f"{tmp_path / 'missing'}: no such folder"
    (tmp_path / "file").write_text("")
    assert "is a file" in _refusal(tmp_path / "file")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refusal = _refusal("someone/some-model")
    assert refusal == ("someone/some-model: no such folder, and not in the local hub cache; the hub cannot be reached")


def test_pickled_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no weights (model.safetensors is needed)" in _refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "only pickled weights" in _refusal(folder)


def test_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in _refusal(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded" in _refusal(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model_type": "nothing"}', '{"model_type": "llama", "hidden_size": "x"}']
)
def test_bad_config(folder, content):
    (folder / "config.json").write_text(content)
    assert str(folder) in _refusal(folder)


def test_its_own_code_is_never_run(folder):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass C: pass\n")
    auto_map = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C", "AutoTokenizer": ["own.C", "own.C"]}
    _edit(folder, auto_map=auto_map)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    tiny.load(folder)  # transformers has this architecture itself
    _edit(folder, model_type="own")
    assert str(folder) in _refusal(folder)
    assert not (folder / "ran").exists()


def test_other_kinds_of_models(folder):
    _edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "its weights are quantised" in _refusal(folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "t5 is an encoder-decoder" in _refusal(folder)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert "no causal language model of type 'vit'" in _refusal(folder)


def test_vocabulary_and_context(folder):
    _edit(folder, vocab_size=299)
    assert "its tokenizer has id 299, but the model only ids below 299" in _refusal(folder)
    _edit(folder, vocab_size=300)
    refusal = _refusal(folder, Settings(sequence_length=65))
    assert refusal == f"--sequence-length 65: the context of {folder} is 64 tokens"
    assert _refusal(folder, Settings(sequence_length=8)) == "--prompt-length 32: must be below --sequence-length 8"


def test_broken_weights(folder):
    path = folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(path).items()}  # not a view of the file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "its weights cannot be loaded" in _refusal(folder)
    path.write_bytes(b"\xff" * 100)
    assert "its weights cannot be loaded" in _refusal(folder)
    save_file({name: weight for name, weight in weights.items() if name != "model.norm.weight"}, path)
    assert "1 weights are missing, the first is model.norm.weight" in _refusal(folder)
    save_file(weights | {"model.norm.weight": torch.ones(7)}, path)
    assert "its weights cannot be loaded" in _refusal(folder)
    save_file(weights | {"model.norm.weight": torch.full((32,), torch.nan)}, path)
    assert "weight model.norm.weight has values that are not finite" in _refusal(folder)


def test_greedy_ids_of_a_trained_model():
    if not MODELS.is_dir():
        pytest.skip("needs ../shared/models")
    for name, settings in (("stories260k", Settings()), ("fiction-6m", Settings())):
        modality = tiny.load(MODELS / name, settings)
        prompt = modality.encode_prompt("Once upon a time there was")[None]
        ids = tiny.greedy_ids(modality.model, prompt, 64)
        assert ids == tiny.transformers_ids(modality.model.causal, prompt, 64)
        assert modality.decode(torch.cat([prompt, torch.tensor(ids)], 1))[0].strip().startswith("Once upon a time")


def test_weights_show_progress_while_they_are_read_and_written(saved, tmp_path, phases):
    modality = tiny.load(saved)
    shown = phases()
    assert list(shown) == ["load weights", "check weights"]
    assert all(int(done) == int(total) > 1 for done, total in (count.split("/") for count in shown.values()))
    modality.save(tmp_path / "again")
    assert phases() == {"write weights": "1/1"}


def test_progress_of_a_loading_that_fails_ends_with_it(phases):
    """And the bars of transformers that are not ours stay as they were."""
    hook = logging.set_tqdm_hook(None)
    with pytest.raises(KeyError), quiet():
        for name in logging.tqdm(["a", "b"], desc="Loading weights"):
            if name == "b":
                raise KeyError(name)
    assert phases() == {"load weights": "1/2"}
    assert logging.set_tqdm_hook(hook) is None
    with quiet():
        assert list(logging.tqdm(["a"], desc="Something else")) == ["a"]
    assert phases() == {}


def multimodal(folder):
    """A tiny Gemma 3 with its vision tower and the files of its processor, as transformers saves them."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tiny.config("gemma3_text").to_dict()
    config = Gemma3Config(
        text_config={**text, "initializer_range": 0.1},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=tiny.NUM_TOKENS - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    preprocessor = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "processor_config.json").write_text('{"image_seq_length": 4, "processor_class": "Gemma3Processor"}')
    (folder / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


def test_a_multimodal_class_loads_the_run_of_a_text_fit(tmp_path):
    base = multimodal(tmp_path / "base")
    loaded = tiny.load(base)
    other = loaded.with_model(copy.deepcopy(loaded.model)).with_settings(tiny.SETTINGS)  # as after an interpolation
    other.save(tmp_path / "run")
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.json"):
        assert (tmp_path / "run" / name).read_bytes() == (base / name).read_bytes()
    assert AutoImageProcessor.from_pretrained(tmp_path / "run").size == {"height": 28, "width": 28}
    theirs = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "run").eval()
    with torch.no_grad():
        assert theirs(input_ids=tiny.tokens()).logits.equal(loaded.model.eval()(tiny.tokens()))


def test_files_of_a_processor_are_taken_from_multimodal_checkpoints_alone(folder):
    (folder / "preprocessor_config.json").write_text("{}")
    assert tiny.load(folder).processor_files == {}


def test_an_adapter_beside_a_whole_model_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "is an adapter (adapter_config.json) of another model, beside a whole one" in _refusal(folder)
