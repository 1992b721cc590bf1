"""Tell which configurations packed weights cover: a list of every field and its values that were compared.

A probe of a few tokens cannot show everything that a field may change (a window, another rotation from some length
on), so what is not on this list decodes the model's own way. A field is either covered for some values, each of which
`tests/text/test_packable.py` compares with transformers, or one that no forward pass of these families reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

GPT2_ACTIVATIONS = {"gelu_new": "tanh_gelu", "gelu_pytorch_tanh": "tanh_gelu", "silu": "silu", "swish": "silu"}
CLASSES = {  # the only classes of these types whose forward passes were compared
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
LAYERS = ("Linear", "Conv1D", "Embedding", "LayerNorm", "LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm")
ROTARY_TYPES = ("default", "linear", "llama3", "yarn")  # one set of frequencies for all lengths
ROTARY_FIELDS = """
    rope_type type rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings beta_fast
    beta_slow mscale mscale_all_dim attention_factor truncate partial_rotary_factor
"""
SIZES = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings n_positions n_ctx n_embd n_layer n_head n_inner
    rms_norm_eps layer_norm_epsilon attention_bias mlp_bias tie_word_embeddings
"""  # which the weights have, or packing reads itself
TRAINING_AND_SAVING = """
    initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop use_cache pretraining_tp
    gradient_checkpointing architectures transformers_version dtype torch_dtype model_type name_or_path auto_map
    tokenizer_class pad_token_id bos_token_id eos_token_id sep_token_id decoder_start_token_id prefix
    return_dict output_hidden_states output_attentions
"""
OTHER_HEADS = """
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout classifier_dropout
    id2label label2id num_labels _num_labels problem_type
"""
OTHER_PROGRAMS = """
    finetuning_task task_specific_params predict_special_tokens output_past xla_device torchscript use_bfloat16
    transformers.js_config is_llama_config unsloth_version unsloth_fixed
"""  # and transformers of former years: passed over today
NOTES = """
    _name_or_path _model_name_or_path _output_attentions _attn_implementation_internal _experts_implementation_internal
    _post_init_done _commit_hash ignore_keys_at_rope_validation
"""  # of transformers for itself; how attention is computed, `model` decides
UNREAD = frozenset(" ".join([SIZES, TRAINING_AND_SAVING, OTHER_HEADS, OTHER_PROGRAMS, NOTES]).split())

Covered = Callable[[Any, PreTrainedConfig], bool]  # the value, and the configuration that it stands in


def one_of(*values: object) -> Covered:
    """Cover these values, and no number in place of a truth value."""
    return lambda value, _: any(value == one and type(value) is type(one) for one in values)


def _covers_window(window: Any, config: PreTrainedConfig) -> bool:
    """Cover a sliding window that no sequence outgrows, or that no layer has.

    A Mistral has its window in every layer, whatever `layer_types` says, and its modules do not show it.
    """
    is_used = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    return window is None or not is_used or window >= config.max_position_embeddings


def _covers_rotary(parameters: Any, _: PreTrainedConfig) -> bool:
    """Cover one rotation for all layers and lengths, of whole heads."""
    return (
        isinstance(parameters, dict)
        and parameters.keys() <= set(ROTARY_FIELDS.split())
        and parameters.get("rope_type") in ROTARY_TYPES
        and parameters.get("partial_rotary_factor", 1.0) == 1.0
    )


def _covers_layer_types(kinds: Any, _: PreTrainedConfig) -> bool:
    return set(kinds) <= {"full_attention", "sliding_attention"}  # the window is looked at by itself


COMMON: Mapping[str, Covered] = {
    "is_encoder_decoder": one_of(False),
    "is_decoder": one_of(False, True),
    "add_cross_attention": one_of(False),
    "cross_attention_hidden_size": one_of(None),
    "chunk_size_feed_forward": one_of(0),
    "pruned_heads": lambda heads, _: not heads,
}
ROTATED: Mapping[str, Covered] = {
    **COMMON,
    "hidden_act": one_of("silu", "swish"),
    "rope_parameters": _covers_rotary,
    "rope_interleaved": one_of(False),
}
FIELDS: Mapping[str, Mapping[str, Covered]] = {
    "llama": ROTATED,
    "mistral": {**ROTATED, "sliding_window": _covers_window},
    "qwen2": {
        **ROTATED,
        "sliding_window": _covers_window,
        "layer_types": _covers_layer_types,
        "use_sliding_window": one_of(False, True),
        "max_window_layers": lambda *_: True,  # `layer_types` is made from it
        "use_mrope": one_of(False),
    },
    "gpt2": {
        **COMMON,
        "activation_function": one_of(*GPT2_ACTIVATIONS),
        "scale_attn_weights": one_of(True),
        "scale_attn_by_inverse_layer_idx": one_of(False),
        "reorder_and_upcast_attn": one_of(False),
    },
}


def uncovered(causal: PreTrainedModel) -> str | None:
    """Name the first thing that is not known to be covered: a class, a field and its value; None where all is."""
    config, kind = causal.config, causal.config.model_type
    if CLASSES.get(kind) != type(causal).__name__:
        return f"{type(causal).__name__} of type '{kind}'"
    other = next((type(one).__name__ for one in causal.modules() if _is_unknown_layer(one)), None)
    if other is not None:
        return f"a layer of class {other}"
    covered = FIELDS[kind]
    for name, value in vars(config).items():
        if name not in UNREAD and not (name in covered and covered[name](value, config)):
            return f"{name} = {value!r}"
    return None


def _is_unknown_layer(module: nn.Module) -> bool:
    """Tell whether a module has weights and is none of the classes that packing reads."""
    return bool(module._parameters) and type(module).__name__ not in LAYERS
