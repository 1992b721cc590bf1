"""Models out as GGUF are the same read back, and in llama.cpp. Alone: pytest tests/text/test_gguf_export.py"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text import adapter
from hypergen.text.config import EXPORT_FORMATS
from hypergen.text.gguf import LLAMA3, ROTARY_FACTORS, read_header
from hypergen.text.gguf_export import FILE_TYPES, GEMMA_LAYERS, write_gguf
from hypergen.text.offload import is_offloaded
from tests.text import llama_cpp, tiny, tiny_tokenizers

gguf = pytest.importorskip("gguf")
gguf_file = pytest.importorskip("tests.text.gguf_file")

GEMMA = {"num_hidden_layers": 7, "layer_types": [*GEMMA_LAYERS, GEMMA_LAYERS[0]]}
MODELS = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": GEMMA,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, **LLAMA3}
NEAR = LONG | {"rope_theta": 1e2, "factor": 8.0, "original_max_position_embeddings": 16}  # changes near positions, too
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
COUNT = 24
PROMPTS = tiny.tokens(8, 12)


def model(kind, **changes):
    """Norms and biases are random, too."""
    causal, generator = tiny.causal(kind, **MODELS.get(kind, {}) | changes), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in causal.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return causal


def write(causal, folder, type="f32", tokenizer=None):
    file = folder / "model.gguf"
    tokenizer = tokenizer or tiny.tokenizer()
    ends = tiny.TextModality(tiny.TextModel(causal), tokenizer, tiny.SETTINGS).end_tokens
    write_gguf(causal, tokenizer, file, type=type, title="a tiny model", end_tokens=ends)
    return file


def logits(causal):
    with torch.no_grad():
        return causal.eval()(input_ids=tiny.tokens()).logits


def read_back(file):
    return tiny.load(file).model.causal


def refusal(causal, folder, **options):
    with pytest.raises(InputError) as error:
        write(causal, folder, **options)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert list(folder.iterdir()) == []
    return str(error.value)


# Read back.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_an_f32_file_gives_the_same_logits(kind, tied, tmp_path):
    causal = model(kind, tie_word_embeddings=tied)
    file = write(causal, tmp_path)
    back, has_head = read_back(file), "output.weight" in read_header(file).places
    assert has_head != tied and back.config.tie_word_embeddings == tied
    if kind == "gemma3_text":  # its norms are stored with 1 added, which rounds
        torch.testing.assert_close(logits(back), logits(causal))
    else:
        assert logits(back).equal(logits(causal))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_heads_of_another_width(kind, tmp_path):
    scale = {"query_pre_attn_scalar": 16} if kind == "gemma3_text" else {}
    causal = model(kind, head_dim=16, **scale)
    torch.testing.assert_close(logits(read_back(write(causal, tmp_path))), logits(causal))


@pytest.mark.parametrize("kind", MODELS)
def test_bf16_rounds_matrices_and_nothing_else(kind, tmp_path):
    causal = model(kind)
    back = dict(read_back(write(causal, tmp_path, "bf16")).named_parameters())
    for name, weight in causal.named_parameters():
        if weight.ndim == 1:
            torch.testing.assert_close(back[name], weight, rtol=0, atol=2e-7)
        else:
            assert back[name].equal(weight.bfloat16().float()), name


@pytest.mark.parametrize("kind", MODELS)
def test_q8_0_is_what_llama_cpp_s_quantizer_makes(kind, tmp_path):
    causal, q8_0 = model(kind), gguf.GGMLQuantizationType.Q8_0
    back = read_back(write(causal, tmp_path, "q8_0"))
    embedding = causal.get_input_embeddings().weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(embedding, q8_0), q8_0)
    assert back.get_input_embeddings().weight.detach().numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("type", ["bf16", "q8_0"])
def test_logits_of_fewer_bits_are_close(type, kind, tmp_path):
    causal = model(kind)
    before, after = logits(causal), logits(read_back(write(causal, tmp_path, type)))
    assert 0 < (before - after).std() / before.std() < 0.06


def test_rows_that_do_not_divide_into_blocks_are_f16(tmp_path):
    causal = model("llama", intermediate_size=48)
    file = write(causal, tmp_path, "q8_0")
    types = {name: gguf.GGMLQuantizationType(place.type).name for name, place in read_header(file).places.items()}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.0.ffn_norm.weight"] == "F32"
    down = causal.model.layers[0].mlp.down_proj.weight
    assert read_back(file).model.layers[0].mlp.down_proj.weight.equal(down.half().float())


# The rotary scaling.


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_linear_scaling(kind, tmp_path):
    causal = model(kind, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    assert logits(read_back(write(causal, tmp_path))).equal(logits(causal))


def test_linear_scaling_of_gemma_is_of_the_layers_that_see_everything(tmp_path):
    full = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    causal = model("gemma3_text", rope_parameters={"full_attention": full, "sliding_attention": LOCAL})
    back = read_back(write(causal, tmp_path))
    assert back.config.rope_parameters["full_attention"] == full
    torch.testing.assert_close(logits(back), logits(causal))


def test_llama_3_s_scaling_becomes_factors(tmp_path):
    causal = model("llama", rope_parameters=LONG)
    file = write(causal, tmp_path, "q8_0")
    place = read_header(file).places[ROTARY_FACTORS]
    assert (place.shape, place.type) == ((4,), gguf.GGMLQuantizationType.F32)
    torch.testing.assert_close(read_back(file).model.rotary_emb.inv_freq, causal.model.rotary_emb.inv_freq)


# The file.


def test_keys(tmp_path):
    values = read_header(write(model("gemma3_text"), tmp_path, "bf16")).values
    expected = {
        "general.architecture": "gemma3",
        "general.type": "model",
        "general.name": "a tiny model",
        "general.file_type": 32,
        "gemma3.context_length": tiny.CONTEXT,
        "gemma3.block_count": 7,
        "gemma3.embedding_length": 32,
        "gemma3.feed_forward_length": 64,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 8,
        "gemma3.attention.value_length": 8,
        "gemma3.attention.sliding_window": 8,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.dimension_count": 8,
        "gemma3.vocab_size": tiny.NUM_TOKENS,
    }
    assert expected.items() <= values.items()


def test_norms_of_gemma_are_stored_with_1_added(tmp_path):
    causal = model("gemma3_text")
    weights = {one.name: one.data for one in gguf.GGUFReader(write(causal, tmp_path)).tensors}
    assert sum(name.endswith("_norm.weight") for name in weights) == 6 * 7 + 1
    inner = causal.model.layers[6].self_attn.q_norm.weight.detach()
    assert weights["blk.6.attn_q_norm.weight"].tolist() == (1 + inner).tolist()
    assert weights["output_norm.weight"].tolist() == (1 + causal.model.norm.weight.detach()).tolist()


def test_the_same_model_gives_the_same_bytes(tmp_path):
    (tmp_path / "again").mkdir()
    first, again = write(model("qwen3"), tmp_path, "q8_0"), write(model("qwen3"), tmp_path / "again", "q8_0")
    assert first.read_bytes() == again.read_bytes()


def test_an_offloaded_model_gives_the_bytes_of_one_in_memory(tmp_path):
    tiny.modality("llama").save(tmp_path / "base")
    settings = replace(tiny.SETTINGS, offload=True, resident_blocks=1)
    there = tiny.load(tmp_path / "base", settings)
    assert is_offloaded(there.model.causal)
    written = write(there.model.causal, tmp_path).read_bytes()
    assert is_offloaded(there.model.causal)
    assert written == write(tiny.load(tmp_path / "base").model.causal, tmp_path).read_bytes()


def test_progress(tmp_path, phases):
    write(model("llama"), tmp_path)
    assert phases() == {"write weights": "39/39"}


def test_the_adapter_s_format():
    form = EXPORT_FORMATS["gguf"]
    assert list(EXPORT_FORMATS) == list(adapter.EXPORT_WRITERS) == ["gguf", "safetensors"] and form.suffix == ".gguf"
    assert form.types == tuple(FILE_TYPES) == ("f32", "bf16", "q8_0")


# What is refused.


@pytest.mark.parametrize(
    "kind, changes, said",
    [
        ("gpt2", {}, "type is gpt2; it must be one of llama, mistral, qwen2, qwen3, gemma3_text"),
        ("gemma2", {}, "type is gemma2; it must be one of"),
        ("llama", {"attention_bias": True}, "attention_bias is True; it must be False"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True; it must be False"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu; it must be silu"),
        ("llama", {"rope_parameters": YARN}, "rotary scaling is yarn; it must be one of default, linear, llama3"),
        ("qwen3", {"rope_parameters": LONG}, "rotary scaling is llama3; it must be one of default, linear"),
        ("mistral", {"sliding_window": 8}, "sliding_window is 8; it must be None"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window is True; it must be False"),
        ("gemma3_text", {"query_pre_attn_scalar": 4}, "query_pre_attn_scalar is 4; it must be 8"),
        ("gemma3_text", {"final_logit_softcapping": 2.0}, "final_logit_softcapping is 2.0; it must be None"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 7}, "layer_types is another pattern; it must be five"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": LOCAL, "sliding_attention": LOCAL | {"rope_theta": 5.0}}},
            "rotary base of sliding_attention is",
        ),
    ],
)
def test_a_model_that_llama_cpp_has_no_equal_of(kind, changes, said, tmp_path):
    shown = refusal(model(kind, **changes), tmp_path)
    assert shown.startswith("--format gguf: the model's ") and said in shown


def test_a_weight_without_a_name(tmp_path):
    causal = model("llama")
    causal.model.layers[0].extra = torch.nn.Linear(2, 2)
    said = "--format gguf: llama.cpp has no name for the weight model.layers.0.extra.weight of llama"
    assert refusal(causal, tmp_path) == said


def test_the_library_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: module != "gguf")
    assert refusal(model("llama"), tmp_path) == "--format gguf: needs gguf (pip install 'gguf>=0.10')"


def test_a_library_that_is_too_old_for_the_model(tmp_path, monkeypatch):
    known = {number: name for number, name in gguf.MODEL_ARCH_NAMES.items() if name != "qwen3"}
    monkeypatch.setattr(gguf, "MODEL_ARCH_NAMES", known)
    said = "--format gguf: the installed gguf does not know qwen3 (pip install -U gguf)"
    assert refusal(model("qwen3"), tmp_path) == said


# Decoded by llama.cpp.


needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp")


def until_end(ids, end=0):
    return ids[: ids.index(end)] if end in ids else ids


@needs_llama_cpp
@pytest.mark.parametrize(
    "kind, changes",
    [
        *[pytest.param(kind, {}, id=kind) for kind in MODELS],
        pytest.param("llama", {"tie_word_embeddings": True, "head_dim": 16}, id="llama-tied-wide"),
        pytest.param("llama", {"rope_parameters": NEAR}, id="llama-3"),
        pytest.param("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, id="lin"),
        pytest.param("qwen3", {"head_dim": 16, "tie_word_embeddings": True}, id="qwen3-tied-wide"),
    ],
)
def test_llama_cpp_decodes_the_same_greedy_ids(kind, changes, tmp_path):
    tiny.TextModality(tiny.TextModel(model(kind, **changes)), tiny.tokenizer(), tiny.SETTINGS).save(tmp_path / "run")
    saved = tiny.load(tmp_path / "run")
    ids = tiny.greedy_ids(saved.model, PROMPTS, COUNT)
    assert len({one for row in ids for one in row}) > 8  # not one id again and again
    found = llama_cpp.greedy_ids(write(saved.model.causal, tmp_path), PROMPTS.tolist(), COUNT)
    assert found == [until_end(row) for row in ids]


@needs_llama_cpp
@pytest.mark.parametrize("type", ["bf16", "q8_0"])
def test_llama_cpp_reads_fewer_bits(type, tmp_path):
    file = write(model("llama"), tmp_path, type)
    assert all(llama_cpp.greedy_ids(file, PROMPTS.tolist(), COUNT))


@needs_llama_cpp
def test_a_file_as_the_model_gives_the_ids_of_llama_cpp(tmp_path, monkeypatch, capsys):
    from hypergen.cli.main import main

    monkeypatch.chdir(tmp_path)
    file = gguf_file.write(tmp_path / "tiny.gguf", tiny.causal("llama"))
    prompt = ["generate", "tiny.gguf", "--prompt", "The ferryman", "On the first day", "--max-new-tokens", str(COUNT)]
    assert main([*prompt, "--device", "cpu", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = llama_cpp.greedy_ids(file, [record["prompt_tokens"] for record in records], COUNT)
    assert found == [until_end(record["completion_tokens"]) for record in records]


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "llama", "legacy", "gemma"])
def test_llama_cpp_makes_the_same_ids_of_texts(kind, tmp_path):
    tokenizer = (
        tiny_tokenizers.byte_level if "-" in kind or kind in ("smollm", "qwen2") else tiny_tokenizers.sentencepiece
    )(kind)
    causal = model("gemma3_text" if kind == "gemma" else "llama", vocab_size=len(tokenizer) + 3)
    file = write(causal, tmp_path, tokenizer=tokenizer)
    texts = [*tiny.TEXTS[:4], "In 1847, 12  men\n\n\tsang: don't, they'LL  ", "x", "\u4f60\u597d \u2581 \U0001f680"]
    assert llama_cpp.tokenize(file, texts) == tokenizer(texts)["input_ids"]
