"""Tiny GGUF files, written with the package `gguf` as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from transformers import PreTrainedModel

from tests.text import tiny

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
CONTROL, NORMAL, UNUSED = 3, 1, 5


def write(
    path: Path,
    causal: PreTrainedModel,
    *,
    architecture: str = "llama",
    quantization: gguf.GGMLQuantizationType | None = None,
    values: dict[str, int | float | str] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
    pre: str = "gpt-2",
) -> Path:
    """A Llama and the tiny tokenizer; `values` and `weights` are added to the file as they are."""
    writer = gguf.GGUFWriter(path, architecture)
    config = causal.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, config.vocab_size, pre)
    for name, value in (values or {}).items():
        kinds = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](name, value)
    for name, weight in (llama_cpp_weights(causal) | (weights or {})).items():
        if name in without:
            continue
        if quantization is None or weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, size: int, pre: str) -> None:
    """The tiny byte-level BPE, filled up to the model's vocabulary."""
    tokenizer = tiny.tokenizer()
    pieces = dict(sorted((index, piece) for piece, index in tokenizer.get_vocab().items()))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([pieces.get(index, f"[PAD{index}]") for index in range(size)])
    writer.add_token_types([CONTROL if not index else NORMAL if index in pieces else UNUSED for index in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(tokenizer.eos_token_id)


def llama_cpp_weights(causal: PreTrainedModel) -> dict[str, np.ndarray]:
    """llama.cpp's names, and its order of the rows of queries and keys."""
    config, found = causal.config, {}
    for name, weight in causal.state_dict().items():
        place, values = name.removesuffix(".weight"), weight.float().numpy()
        block, inner = "", place
        if place.startswith("model.layers."):
            number, inner = place.removeprefix("model.layers.").split(".", 1)
            block = f"blk.{number}."
        if inner.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if inner.endswith("q_proj") else config.num_key_value_heads
            halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        found[f"{block}{NAMES[inner]}.weight"] = values
    return found
