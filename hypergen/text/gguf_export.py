"""Write a language model and its tokenizer into a GGUF file, which llama.cpp runs.

Names, order of rows and keys are those of llama.cpp's own converter. What it has no key for is refused, because
llama.cpp would decode another model and not say so. Weights go into the file one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hypergen.errors import InputError
from hypergen.runtime.dependencies import load_optional
from hypergen.runtime.progress import track
from hypergen.text.gguf import REQUIREMENT, ROTARY_FACTORS, attention_scalar, llama3_factors
from hypergen.text.gguf_tokenizer import add_tokenizer
from hypergen.text.offload import read_weight

FILE_TYPES = {
    "f32": "ALL_F32",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
}  # --type -> gguf's name; the default first
FALLBACK = "F16"  # of a weight whose rows are no multiple of a block of Q8_0
GEMMA_LAYERS = ("sliding_attention",) * 5 + ("full_attention",)  # from the first on, again and again
GEMMA_LOCAL_THETA = 10_000.0  # of the layers with a sliding window


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Describe what llama.cpp makes of a type of model."""

    name: str
    """llama.cpp's name for it."""
    requires: Mapping[str, object]
    """Fields of the configuration -> the only value that llama.cpp computes with; None and False are the same."""
    biases: tuple[str, ...] = ()
    """Layers whose bias it reads."""
    interleaves: bool = False
    """Rotary positions turn neighbours in a head, not its two halves: rows of queries and keys change their order."""
    norm_offset: float = 0.0
    """What transformers adds to the weight of a norm, and llama.cpp does not."""
    rotary: tuple[str, ...] = field(default=("default", "linear"))
    """Kinds of rotary scaling that it reads."""


SILU = {"hidden_act": "silu"}
ARCHITECTURES = {
    "llama": Architecture(
        name="llama",
        requires=SILU | {"attention_bias": False, "mlp_bias": False},
        interleaves=True,
        rotary=("default", "linear", "llama3"),
    ),
    "mistral": Architecture(name="llama", requires=SILU | {"sliding_window": None}, interleaves=True),
    "qwen2": Architecture(
        name="qwen2", requires=SILU | {"use_sliding_window": False}, biases=("q_proj", "k_proj", "v_proj")
    ),
    "qwen3": Architecture(name="qwen3", requires=SILU | {"use_sliding_window": False, "attention_bias": False}),
    "gemma3_text": Architecture(
        name="gemma3",
        requires={
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        norm_offset=1.0,
    ),
}


@dataclass(frozen=True)
class _Stored:
    """Say how a weight is stored."""

    source: str
    """Its name in the model; `ROTARY_FACTORS` are computed."""
    shape: tuple[int, ...]
    type: Any
    """A `GGMLQuantizationType`."""


def write_gguf(
    causal: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    *,
    type: str,
    title: str,
    end_tokens: Sequence[int],
) -> None:
    """Write a model and its tokenizer.

    Args:
        causal: the model, on any device; blocks that stay in files are read one weight at a time.
        tokenizer: its tokenizer.
        file: to be made.
        type: one of `FILE_TYPES`; norms and biases are fp32 in each.
        title: name of the model, for people.
        end_tokens: ids that end a completion; llama.cpp has a place for three.

    Raises:
        InputError: llama.cpp has no equal of the model or of the tokenizer, or `gguf` is missing.
    """
    library = load_optional("gguf", REQUIREMENT, "--format gguf")
    architecture = _architecture(causal.config)
    stored = _stored(library, causal, architecture, type)
    num_tokens = stored["token_embd.weight"].shape[0]
    writer = library.GGUFWriter(file, architecture.name)
    writer.add_string("general.type", "model")
    writer.add_name(title)
    writer.add_file_type(library.LlamaFileType[FILE_TYPES[type]])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    _add_sizes(writer, causal.config, num_tokens)
    _add_rotary(writer, library, causal.config)
    add_tokenizer(writer, tokenizer, num_tokens, end_tokens)
    _write_header(writer, library, stored)
    # Appended here, because the writer's way through numpy tells no reason when the disk is full.
    with track("write weights", len(stored), transient=True) as advance, file.open("ab") as target:
        for one in stored.values():
            values = _values(causal, architecture, one.source)
            target.write(library.quants.quantize(values, one.type).tobytes())
            target.write(bytes(-target.tell() % writer.data_alignment))
            advance()


def _write_header(writer: Any, library: Any, stored: Mapping[str, _Stored]) -> None:
    """Write everything before the first weight, which is aligned as each weight is."""
    for name, one in stored.items():
        values_in_block, bytes_in_block = library.GGML_QUANT_SIZES[one.type]
        num_bytes = math.prod(one.shape) // values_in_block * bytes_in_block
        writer.add_tensor_info(name, one.shape, np.dtype(np.float32), num_bytes, raw_dtype=one.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
    finally:
        writer.close()


# What is refused.


def _refusal(what: str, value: object, allowed: str) -> InputError:
    return InputError(f"--format gguf: the model's {what} is {value}; it must be {allowed}")


def _architecture(config: PreTrainedConfig) -> Architecture:
    """Look up the architecture, and require that llama.cpp computes the same.

    Raises:
        InputError: it does not.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise _refusal("type", config.model_type, f"one of {', '.join(ARCHITECTURES)}")
    for name, allowed in architecture.requires.items():
        value = getattr(config, name, allowed)
        if (value or None) != (allowed or None):
            raise _refusal(name, value, str(allowed))
    rotary = _rotary(config)
    if rotary["rope_type"] not in architecture.rotary:
        raise _refusal("rotary scaling", rotary["rope_type"], f"one of {', '.join(architecture.rotary)}")
    if (share := rotary.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _refusal("partial_rotary_factor", share, "1.0")
    if architecture.name == "gemma3":
        _check_gemma(config)
    return architecture


def _check_gemma(config: PreTrainedConfig) -> None:
    """Check what llama.cpp knows of Gemma 3 without reading it from the file."""
    expected = [GEMMA_LAYERS[number % len(GEMMA_LAYERS)] for number in range(config.num_hidden_layers)]
    if list(config.layer_types) != expected:
        raise _refusal("layer_types", "another pattern", "five of sliding_attention, then one of full_attention")
    local = config.rope_parameters["sliding_attention"]
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != GEMMA_LOCAL_THETA:
        raise _refusal("rotary base of sliding_attention", local, f"{GEMMA_LOCAL_THETA}, without scaling")
    if config.query_pre_attn_scalar != (scalar := attention_scalar(config)):
        raise _refusal("query_pre_attn_scalar", config.query_pre_attn_scalar, str(scalar))


# Keys.


def _head_width(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _add_sizes(writer: Any, config: PreTrainedConfig, num_tokens: int) -> None:
    writer.add_vocab_size(num_tokens)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_width(config))
    writer.add_value_length(_head_width(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def _rotary(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the rotary parameters, where layers differ those of layers that see everything."""
    found: dict[str, Any] = config.rope_parameters
    return {"rope_type": "default"} | found.get("full_attention", found)


def _add_rotary(writer: Any, library: Any, config: PreTrainedConfig) -> None:
    rotary = _rotary(config)
    writer.add_rope_dimension_count(_head_width(config))
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary["rope_type"] == "linear":
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotary["factor"])


# Weights.


def _stored(library: Any, causal: PreTrainedModel, architecture: Architecture, type: str) -> dict[str, _Stored]:
    """Plan the file's weights, by llama.cpp's names.

    Raises:
        InputError: it has no name for one of the model's.
    """
    config, wanted = causal.config, library.GGMLQuantizationType[type.upper()]
    numbers = {name: number for number, name in library.MODEL_ARCH_NAMES.items()}
    if architecture.name not in numbers:
        raise InputError(f"--format gguf: the installed gguf does not know {architecture.name} (pip install -U gguf)")
    names = library.get_tensor_name_map(numbers[architecture.name], config.num_hidden_layers)
    found: dict[str, _Stored] = {}
    if _rotary(config)["rope_type"] == "llama3":
        found[ROTARY_FACTORS] = _Stored(ROTARY_FACTORS, (_head_width(config) // 2,), library.GGMLQuantizationType.F32)
    for source, weight in _distinct_weights(causal):
        layer, _, suffix = source.rpartition(".")
        name = names.get_name(layer)
        if name is None or (suffix == "bias" and layer.rpartition(".")[2] not in architecture.biases):
            raise InputError(f"--format gguf: llama.cpp has no name for the weight {source} of {config.model_type}")
        shape = tuple(weight.shape)
        found[f"{name}.{suffix}"] = _Stored(source, shape, _type_of(library, shape, wanted))
    return found


def _distinct_weights(causal: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by name; a head that is the embedding, too, is left out."""
    head: Any = causal.get_output_embeddings()
    embedding: Any = causal.get_input_embeddings()
    for name, weight in causal.named_parameters(remove_duplicate=False):
        if weight is embedding.weight and causal.get_submodule(name.rpartition(".")[0]) is head:
            continue
        yield name, weight


def _type_of(library: Any, shape: tuple[int, ...], wanted: Any) -> Any:
    """Choose the type of a weight: fp32 where it is a vector, F16 where its rows do not divide into blocks."""
    types = library.GGMLQuantizationType
    if len(shape) < 2:
        return types.F32
    values_in_block, _ = library.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % values_in_block == 0 else types[FALLBACK]


def _values(causal: PreTrainedModel, architecture: Architecture, source: str) -> Any:
    """Compute the values of a weight, a contiguous fp32 array, in llama.cpp's order."""
    config = causal.config
    if source == ROTARY_FACTORS:
        return llama3_factors(config).numpy()
    weight = read_weight(causal, source).detach().to("cpu", torch.float32)
    layer = source.split(".")[-2]
    if architecture.interleaves and layer in ("q_proj", "k_proj"):
        num_heads = config.num_attention_heads if layer == "q_proj" else config.num_key_value_heads
        weight = weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    if layer.endswith("norm"):
        weight = weight + architecture.norm_offset
    return weight.contiguous().numpy()
