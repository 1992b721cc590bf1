"""GGUF files in, ordinary folders out. Alone: pytest tests/text/test_gguf.py"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text.config import Settings
from hypergen.text.gguf import (
    LLAMA3,
    Header,
    attention_scalar,
    complete_config,
    is_gguf,
    load_tokenizer,
    read_header,
    whereabouts,
)
from tests.text import tiny

gguf = pytest.importorskip("gguf")
gguf_file = pytest.importorskip("tests.text.gguf_file")

LONG = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, **LLAMA3}
FACTORS = np.array([1, 1, 2.2, 32], dtype=np.float32)  # not those of Llama 3


def llama(**changes):
    return tiny.causal("llama", **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return gguf_file.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama())


@pytest.fixture
def path(written, tmp_path):
    return Path(shutil.copy(written, tmp_path / "tiny.gguf"))


def logits(causal, tokens):
    with torch.no_grad():
        return causal.eval()(input_ids=tokens).logits


def refusal(path, settings=tiny.SETTINGS):
    with pytest.raises(InputError) as error:
        tiny.load(path, settings)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


# What is read.


def test_the_model_is_the_one_that_was_written(path):
    loaded, tokens = tiny.load(path), tiny.tokens()
    assert logits(loaded.model.causal, tokens).equal(logits(llama(), tokens))
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert loaded.tokenizer(tiny.TEXTS)["input_ids"] == tiny.tokenizer()(tiny.TEXTS)["input_ids"]
    assert loaded.end_tokens == (0,) == (loaded.model.causal.generation_config.eos_token_id,)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_quantized_weights_are_read_back_to_fp32(kind, tmp_path):
    quantization = gguf.GGMLQuantizationType[kind]
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), quantization=quantization)
    loaded = tiny.load(path).model.causal.model.layers[1].mlp.up_proj.weight
    original = llama().model.layers[1].mlp.up_proj.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(original, quantization), quantization)
    assert loaded.dtype == torch.float32 and loaded.detach().numpy().tolist() == expected.tolist()


def test_what_is_saved_is_an_ordinary_folder(path, tmp_path):
    loaded = tiny.load(path)
    loaded.save(tmp_path / "run")
    causal, tokens = AutoModelForCausalLM.from_pretrained(tmp_path / "run"), tiny.tokens()
    assert logits(causal, tokens).equal(logits(loaded.model.causal, tokens))
    assert causal.dtype == torch.float32 and not getattr(causal, "is_quantized", False)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert not [key for key in config if "quant" in key or "gguf" in key]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer(tiny.TEXTS)["input_ids"] == loaded.tokenizer(tiny.TEXTS)["input_ids"]
    assert tokenizer.eos_token_id == loaded.tokenizer.eos_token_id
    assert tokenizer.decode([0, 40, 41], skip_special_tokens=True) == loaded.decode(torch.tensor([[0, 40, 41]]))[0]


def test_every_end_token_survives(tmp_path):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), values={"tokenizer.ggml.eot_token_id": 7})
    loaded = tiny.load(path)
    assert loaded.model.causal.generation_config.eos_token_id == [0, 7]
    loaded.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "generation_config.json").read_text())["eos_token_id"] == [0, 7]


def test_tied_embeddings(tmp_path):
    causal = llama(tie_word_embeddings=True)
    weights = gguf_file.llama_cpp_weights(causal)
    assert weights["output.weight"].tolist() == weights["token_embd.weight"].tolist()
    path = gguf_file.write(tmp_path / "tiny.gguf", causal, without=["output.weight"])
    loaded = tiny.load(path).model.causal
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert logits(loaded, tiny.tokens()).equal(logits(causal, tiny.tokens()))


def test_what_lies_beside_a_file_is_not_taken(path, tmp_path, monkeypatch):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / path.name).write_bytes(b"GGUF")  # of the same name, in the working folder
    monkeypatch.chdir(other)
    assert logits(tiny.load(path).model.causal, tiny.tokens()).equal(logits(llama(), tiny.tokens()))


# Attention of Gemma 3, and rotary scaling: transformers passes over them, silently.


@pytest.mark.parametrize("layers, width, heads, scalar", [(7, 24, 4, 24), (62, 8, 2, 16)])
def test_the_scale_of_attention_of_gemma_3(layers, width, heads, scalar):
    """llama.cpp takes the width of a head, and in the largest model that of the hidden states over the heads."""
    config = tiny.config("gemma3_text", num_hidden_layers=layers, layer_types=None, head_dim=width)
    config.num_attention_heads = heads
    assert attention_scalar(config) == scalar
    values = {"gemma3.attention.key_length": width}
    complete_config(Header(Path("a.gguf"), values | {"general.architecture": "gemma3"}, {}), config)
    assert (config.head_dim, config.query_pre_attn_scalar) == (width, scalar)


def test_llama_3_s_rotary_factors_are_read(tmp_path):
    causal = llama(rope_parameters=LONG)
    plain = 5e5 ** -(torch.arange(0, 8, 2) / 8)
    factors = (plain / causal.model.rotary_emb.inv_freq).numpy()
    assert factors.max() == pytest.approx(32) and (factors == 1).any()
    path = gguf_file.write(tmp_path / "tiny.gguf", causal, weights={"rope_freqs.weight": factors})
    loaded = tiny.load(path).model.causal
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, causal.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(loaded, tiny.tokens()), logits(causal, tiny.tokens()))
    plain_llama = llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert not logits(loaded, tiny.tokens()).allclose(logits(plain_llama, tiny.tokens()))


def test_factors_of_ones_are_no_scaling(tmp_path):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), weights={"rope_freqs.weight": np.ones(4, np.float32)})
    assert logits(tiny.load(path).model.causal, tiny.tokens()).equal(logits(llama(), tiny.tokens()))


def test_linear_scaling_is_read(tmp_path):
    values = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), values=values)
    causal = llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    assert logits(tiny.load(path).model.causal, tiny.tokens()).equal(logits(causal, tiny.tokens()))


def test_any_other_scaling_is_refused(tmp_path):
    path = gguf_file.write(tmp_path / "a.gguf", llama(), values={"llama.rope.scaling.type": "yarn"})
    assert refusal(path) == f"{path}: its rotary scaling (yarn) is none that hypergen reads"
    path = gguf_file.write(tmp_path / "b.gguf", llama(), weights={"rope_freqs.weight": FACTORS})
    assert refusal(path) == f"{path}: its rotary factors (rope_freqs.weight) are not those of Llama 3"


def test_weights_without_a_place_are_told(tmp_path, capsys):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), weights={"blk.0.extra.weight": np.ones(5, np.float32)})
    tiny.load(path)
    assert "5 of its" in capsys.readouterr().err


# What is refused.


def changed(path, place, content):
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + content + whole[place + len(content) :])


def test_another_file_with_this_suffix(path):
    changed(path, 0, b"GGML")
    assert refusal(path) == f"{path}: is no GGUF file (it does not begin with GGUF)"
    path.write_bytes(b"")
    assert "is no GGUF file" in refusal(path)


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_another_version(path, version):
    changed(path, 4, struct.pack("<I", version))
    assert refusal(path) == f"{path}: is GGUF version {version}; versions 2 and 3 are read"


def test_a_file_that_is_cut_off(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert f"{path}: is cut off: " in refusal(path) and f"the file at {len(whole) - 1:,}" in refusal(path)
    for length in (5, 20, 30, 100, 2000):
        path.write_bytes(whole[:length])
        assert refusal(path) == f"{path}: its header is cut off or damaged; fetch the file again"


@pytest.mark.parametrize("place", [8, 16, 24])
def test_numbers_that_ask_for_more_than_there_is(path, place):
    changed(path, place, b"\xff" * 8)
    assert "its header is cut off or damaged" in refusal(path)


def test_an_architecture_that_transformers_does_not_read(tmp_path):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), architecture="perceptron")
    assert refusal(path).startswith(f"{path}: transformers cannot read its configuration (")
    assert "perceptron" in refusal(path)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"split.count": 3}, "is one of 3 parts; join them with llama-gguf-split --merge"),
        ({"general.alignment": "x"}, "its header is cut off or damaged; fetch the file again"),
        ({"general.alignment": 0}, "its header is cut off or damaged; fetch the file again"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(values, said, tmp_path):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), values=values)
    assert refusal(path) == f"{path}: {said}"


def test_missing_weights(tmp_path):
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), without=["blk.1.ffn_up.weight"])
    assert "1 weights are missing, the first is model.layers.1.mlp.up_proj.weight" in refusal(path)


def test_blocks_cannot_stay_in_a_gguf_file(path):
    settings = Settings(sequence_length=16, prompt_length=4, offload=True, resident_blocks=1)
    assert refusal(path, settings) == f"--offload: reads safetensors only; {path} is a GGUF file"


def test_the_library_is_named_where_it_is_missing(path, monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: module != "gguf")
    assert refusal(path) == f"{path}: needs gguf (pip install 'gguf>=0.10')"


def test_only_a_file_with_the_suffix_is_one(path, tmp_path):
    assert is_gguf(path) and is_gguf(path.rename(tmp_path / "A.GGUF"))
    assert not is_gguf(tmp_path / "missing.gguf") and not is_gguf(tmp_path)
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "folder.gguf")


def test_the_header_tells_sizes_and_places(path):
    header = read_header(path)
    assert header.architecture == "llama" and header.value("block_count") == 4 and header.value("nothing") is None
    assert header.num_values == sum(weight.numel() for weight in llama().state_dict().values())
    assert header.places["token_embd.weight"].shape == (32, 300)


def test_other_sources_are_found_as_before(tmp_path):
    for name in (str(tmp_path), "someone/some-model"):
        with whereabouts(name) as where:
            assert where == {"pretrained_model_name_or_path": name}


def test_a_tokenizer_keeps_special_tokens_and_template(tmp_path):
    values = {"tokenizer.chat_template": "{{ messages }}", "tokenizer.ggml.add_bos_token": 1}
    path = gguf_file.write(tmp_path / "tiny.gguf", llama(), values=values)
    tokenizer, end = load_tokenizer(str(path)), tiny.tokenizer().eos_token
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (end, end, end)
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer("a")["input_ids"] == [0, *tiny.tokenizer()("a")["input_ids"]]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.chat_template == tokenizer.chat_template and again("a")["input_ids"] == tokenizer("a")["input_ids"]


def test_a_file_that_is_not_there(tmp_path):
    assert refusal(tmp_path / "a.gguf") == f"{tmp_path / 'a.gguf'}: no such file"
    assert refusal("models/a.gguf") == "models/a.gguf: no such file"  # and no hub id


def test_digits_stand_alone_where_the_file_says_so(path, tmp_path):
    text = "a  1847"
    apart = tiny.load(gguf_file.write(tmp_path / "apart.gguf", llama(), pre="smollm")).tokenizer
    pieces = apart.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == ["a", "\u0120\u0120", *"1847"]
    together = tiny.load(path).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in together] == ["a", "\u0120", "\u01201847"]


# The verbs.


def test_fit_generate_and_evaluate(path, tmp_path, text_data, monkeypatch, capsys):
    from hypergen.cli.main import main
    from tests.conftest import FIT

    monkeypatch.chdir(tmp_path)
    quick = ["--held-out-samples", "4", "--max-new-tokens", "4", "--measure-every", "0"]
    assert main(["fit", "--model", "tiny.gguf", "--data", text_data, "--output", "run", *FIT, *quick]) == 0
    record = json.loads((tmp_path / "run" / "hypergen.json").read_text())
    assert record["base"] == str(path.resolve()) and record["modality"] == "text"
    AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert main(["generate", "tiny.gguf", "--prompt", "The ferryman", "--max-new-tokens", "4", "--device", "cpu"]) == 0
    assert main(["evaluate", "run", "--count", "2", "--max-new-tokens", "3", "--device", "cpu"]) == 0
    again = ["evaluate", "run", "--baseline", "tiny.gguf", "--count", "2", "--max-new-tokens", "3", "--device", "cpu"]
    assert main(again) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["fit", "--model", "FILE", "--device", "cpu"], ["generate", "FILE", "--prompt", "a"], ["export", "FILE"]],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    "fault, said",
    [
        ("another", "is no GGUF file"),
        ("truncated", "is cut off: "),
        ("architecture", "transformers cannot read its configuration (GGUF model with architecture perceptron"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(fault, said, command, path, refused):
    if fault == "architecture":
        gguf_file.write(path, llama(), architecture="perceptron")
    else:
        path.write_bytes(b"PK\3\4" if fault == "another" else path.read_bytes()[:-1])
    shown = refused(*(str(path) if word == "FILE" else word for word in command))
    assert shown.startswith(f"hypergen: {path}: ") and said in shown
