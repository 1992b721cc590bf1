"""Tokenizers in GGUF files, read back; what is refused. Alone: pytest tests/text/test_gguf_tokenizer.py

llama.cpp's own ids are compared in test_gguf_export.py.
"""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hypergen.errors import InputError
from hypergen.text.gguf import load_tokenizer
from hypergen.text.gguf_export import write_gguf
from hypergen.text.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    add_tokenizer,
)
from tests.text import tiny, tiny_tokenizers

gguf = pytest.importorskip("gguf")

KEYS = "tokenizer.ggml."


class Writer(dict):
    """A writer that only notes what it is given."""

    def __getattr__(self, name):
        return lambda *given: self.__setitem__(name.removeprefix("add_"), *given)


def keys_of(tokenizer, num_tokens=None, end_tokens=()):
    written = Writer()
    add_tokenizer(written, tokenizer, num_tokens or len(tokenizer), end_tokens)
    return dict(written)


def refusal(tokenizer):
    with pytest.raises(InputError) as error:
        keys_of(tokenizer)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value).removeprefix("--format gguf: the tokenizer's ")


def changed(tokenizer, **parts):
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_byte_level(kind):
    tokenizer = tiny_tokenizers.byte_level(kind)
    keys = keys_of(tokenizer, num_tokens=len(tokenizer) + 2)
    assert (keys["tokenizer_model"], keys["tokenizer_pre"]) == ("gpt2", kind)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert keys["token_list"] == [*pieces, f"[PAD{len(pieces)}]", f"[PAD{len(pieces) + 1}]"]
    assert keys["token_types"] == [CONTROL] + [NORMAL] * (len(pieces) - 1) + [UNUSED] * 2
    assert keys["token_merges"][0].count(" ") == 1
    assert (keys["bos_token_id"], keys["eos_token_id"], keys["pad_token_id"]) == (0, 0, 0)
    assert keys["add_bos_token"] is keys["add_eos_token"] is False
    assert not {"token_scores", "unk_token_id", "chat_template", "add_space_prefix"} & keys.keys()


@pytest.mark.parametrize("kind, space", [("llama", True), ("legacy", True), ("gemma", False)])
def test_sentencepiece(kind, space):
    tokenizer = tiny_tokenizers.sentencepiece(kind)
    keys = keys_of(tokenizer)
    assert (keys["tokenizer_model"], keys["tokenizer_pre"]) == ("llama", "default")
    assert keys["token_types"][:3] == [UNKNOWN, CONTROL, CONTROL]
    assert keys["token_types"][3:259] == [BYTE] * 256 and set(keys["token_types"][259:]) == {NORMAL}
    assert keys["token_list"][3] == "<0x00>" and keys["token_list"][258] == "<0xFF>"
    assert keys["add_space_prefix"] is space and keys["add_bos_token"] is True
    assert (keys["unk_token_id"], keys["bos_token_id"], keys["eos_token_id"]) == (0, 1, 2)
    assert "token_merges" not in keys


def test_the_piece_that_is_merged_first_scores_highest():
    tokenizer = tiny_tokenizers.sentencepiece()
    scores = dict(
        zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), keys_of(tokenizer)["token_scores"], strict=True)
    )
    merged = [piece for piece in scores if len(piece) > 1 and piece[0] != "<"]
    assert [scores[piece] for piece in merged] == sorted((scores[piece] for piece in merged), reverse=True)
    assert scores[merged[0]] == 0 and scores["a"] < scores[merged[-1]]


def test_pieces_without_a_row_are_dropped():
    keys = keys_of(tiny_tokenizers.byte_level(), num_tokens=280)
    assert len(keys["token_list"]) == len(keys["token_types"]) == 280


def test_added_pieces():
    tokenizer = tiny_tokenizers.sentencepiece("gemma")
    tokenizer.add_tokens([AddedToken(SPACE * 4, normalized=False), AddedToken("<turn>", special=True)])
    keys = keys_of(tokenizer)
    assert keys["token_list"][-2:] == [" " * 4, "<turn>"]  # llama.cpp looks for it in the text, where spaces are spaces
    assert keys["token_types"][-2:] == [USER_DEFINED, CONTROL]


def test_end_tokens_and_template():
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.chat_template = "{{ messages }}"
    keys = keys_of(tokenizer, end_tokens=[7, 0, 7, 9, 11])
    assert [keys[f"{name}_token_id"] for name in ("eos", "eot", "eom")] == [0, 7, 9]
    assert keys["chat_template"] == "{{ messages }}"
    tokenizer.chat_template = {"default": "a", "tool": "b"}
    assert keys_of(tokenizer)["chat_template"] == [
        {"name": "default", "template": "a"},
        {"name": "tool", "template": "b"},
    ]


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "llama", "gemma"])
def test_read_back_it_makes_the_same_ids(kind, tmp_path):
    is_sentencepiece = kind in ("llama", "gemma")
    tokenizer = (tiny_tokenizers.sentencepiece if is_sentencepiece else tiny_tokenizers.byte_level)(kind)
    tokenizer.chat_template = "{{ messages }}"
    file = tmp_path / "tiny.gguf"
    size = {"vocab_size": len(tokenizer) + 3}
    gemma = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    causal = tiny.causal("gemma3_text", **size, **gemma) if kind == "gemma" else tiny.causal("llama", **size)
    write_gguf(causal, tokenizer, file, type="f32", title="tiny", end_tokens=())
    back = load_tokenizer(str(file))
    texts = [*tiny.TEXTS[:4], "In 1847, 12 men\n\nsang: don't, they'LL"]
    assert back(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert (back.bos_token, back.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    assert back.chat_template == tokenizer.chat_template


# What is refused.


def test_another_model():
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    said = "model is WordLevel; it must be BPE, byte-level or with byte fallback"
    assert refusal(PreTrainedTokenizerFast(tokenizer_object=words)) == said


def test_another_split():
    allowed = "it must be that of GPT-2, SmolLM, Llama 3 or Qwen 2"
    spaced = changed(tiny_tokenizers.byte_level(), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))
    assert refusal(spaced) == f"pre-tokenizer is ByteLevel, of another rule; {allowed}"
    assert refusal(tiny_tokenizers.split_by(tiny_tokenizers.byte_level(), r"\s+")).startswith(
        "pre-tokenizer is Split + ByteLevel"
    )
    assert refusal(changed(tiny_tokenizers.byte_level(), pre_tokenizer=None)).startswith("pre-tokenizer is None")
    words = changed(tiny_tokenizers.sentencepiece("gemma"), pre_tokenizer=pre_tokenizers.Whitespace())
    assert refusal(words).startswith("pre-tokenizer is Whitespace; it must be Metaspace")


def test_another_normalizer():
    lower = changed(tiny_tokenizers.byte_level(), normalizer=normalizers.Lowercase())
    assert refusal(lower) == "normalizer is Lowercase; it must be NFC or none"
    keys_of(changed(tiny_tokenizers.byte_level(), normalizer=normalizers.NFC()))
    lower = changed(tiny_tokenizers.sentencepiece("gemma"), normalizer=normalizers.Lowercase())
    assert refusal(lower).startswith("normalizer is Lowercase; it must be one of spaces to")


def test_missing_bytes():
    said = "byte fallback is of 200 pieces; it must be of 256: <0x00> to <0xFF>"
    assert refusal(tiny_tokenizers.sentencepiece(num_bytes=200)) == said


def test_another_frame():
    frame = processors.TemplateProcessing(single="<s> </s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
    framed = changed(tiny_tokenizers.sentencepiece(), post_processor=frame)
    assert refusal(framed) == "frame around a text is [1, 2] and []; it must be at most a start and an end token"


def test_a_template_around_both_sides_is_kept():
    frame = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    keys = keys_of(changed(tiny_tokenizers.sentencepiece(), post_processor=frame))
    assert keys["add_bos_token"] is keys["add_eos_token"] is True
