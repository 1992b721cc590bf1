"""Only what was compared is packed: every covered value here, and refusals of all else.

Alone: pytest tests/text/test_packable.py
"""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path

import pytest
from torch import nn
from transformers import AutoConfig

import hypergen
from hypergen.text import packing
from hypergen.text.config import Settings
from hypergen.text.model import TextModel
from hypergen.text.packable import CLASSES, FIELDS, GPT2_ACTIVATIONS, UNREAD, uncovered
from hypergen.text.packing import pack_weights
from tests.text import tiny

EMBEDDED = Path(hypergen.__file__).parent / "assets" / "text-base"
WINDOW = 8
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 16,
}
SMOLLM2 = {  # fields of its config.json that another Llama need not have
    "is_llama_config": True,
    "rope_interleaved": False,
    "pretraining_tp": 1,
    "rope_theta": 100000,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}
OLD_GPT2 = {  # fields of gpt2's and distilgpt2's config.json
    "n_ctx": tiny.CONTEXT,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "summary_type": "cls_index",
    "predict_special_tokens": True,
    "finetuning_task": None,
    "output_past": True,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "xla_device": None,
}
COVERED = [
    ("llama", {}),
    ("llama", SMOLLM2),
    ("llama", {"hidden_act": "swish"}),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"head_dim": 16}),
    ("llama", {"pretraining_tp": 2, "attention_dropout": 0.5}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": tiny.CONTEXT}),
    ("mistral", {"sliding_window": 4096}),
    ("qwen2", {}),
    ("qwen2", {"use_mrope": False, "use_sliding_window": False, "sliding_window": WINDOW}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 4}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": tiny.CONTEXT, "max_window_layers": 2}),
    ("gpt2", {}),
    ("gpt2", OLD_GPT2),
    ("gpt2", {"n_inner": 48, "tie_word_embeddings": False}),
    *(("gpt2", {"activation_function": name}) for name in GPT2_ACTIVATIONS),
]
REFUSED = [
    ("llama", {"invented": 3}, "invented = 3"),
    ("gpt2", {"invented": "yes"}, "invented = 'yes'"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved = True"),
    ("llama", {"sliding_window": WINDOW}, "sliding_window = 8"),  # which its modules pass over, and nobody looked at
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters = "),
    ("llama", {"rope_parameters": LONGROPE}, "rope_parameters = "),
    ("llama", {"chunk_size_feed_forward": 4}, "chunk_size_feed_forward = 4"),
    ("mistral", {"sliding_window": WINDOW}, "sliding_window = 8"),
    ("mistral", {"sliding_window": tiny.CONTEXT - 1}, f"sliding_window = {tiny.CONTEXT - 1}"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}, "sliding_window = 8"),
    ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu'"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn = True"),
    ("qwen3", {}, "Qwen3ForCausalLM of type 'qwen3'"),
    ("phi3", {}, "Phi3ForCausalLM of type 'phi3'"),
]


def name_of(case):
    kind, changes, *_ = case
    return f"{kind}-{'-'.join(changes)}"


def ids_of(kind, changes):
    """Whether it is packed, its greedy ids, and those of transformers, well beyond every length in the cases."""
    causal, prompt = tiny.causal(kind, **copy.deepcopy(changes)), tiny.tokens(4, 27)
    model = TextModel(copy.deepcopy(causal)).eval()
    is_packed = model.supports_left_padding
    return is_packed, tiny.greedy_ids(model, prompt, 34), tiny.transformers_ids(causal, prompt, 34)


@pytest.mark.parametrize("case", COVERED, ids=name_of)
def test_a_covered_value_is_packed_and_gives_the_ids_of_transformers(case):
    kind, changes = case
    assert uncovered(tiny.causal(kind, **copy.deepcopy(changes))) is None
    is_packed, ours, theirs = ids_of(kind, changes)
    assert is_packed and ours == theirs


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_what_nobody_compared_is_not_packed_and_still_right(case):
    kind, changes, reason = case
    assert uncovered(tiny.causal(kind, **copy.deepcopy(changes))).startswith(reason)
    is_packed, ours, theirs = ids_of(kind, changes)
    assert not is_packed
    if "longrope" not in str(changes):  # there transformers goes on with keys of the shorter sequence
        assert ours == theirs


def test_the_embedded_base_stays_packed():
    model = tiny.load(EMBEDDED, Settings()).model
    assert uncovered(model.causal) is None and model.supports_left_padding


def test_a_gguf_file_stays_packed(tmp_path):
    pytest.importorskip("gguf")
    from tests.text import gguf_file

    model = tiny.load(gguf_file.write(tmp_path / "tiny.gguf", tiny.causal("llama"))).model
    assert uncovered(model.causal) is None and model.supports_left_padding


def test_every_field_of_the_classes_is_on_the_list():
    for kind, covered in FIELDS.items():
        names = {field.name for field in fields(type(AutoConfig.for_model(kind)))}
        assert names <= UNREAD | covered.keys(), names - UNREAD - covered.keys()
        assert not UNREAD & covered.keys()
    assert FIELDS.keys() == CLASSES.keys()


def test_a_configuration_that_changes_after_loading_is_looked_at_again():
    model = TextModel(tiny.causal("llama")).eval()
    assert model.supports_left_padding
    model.causal.config.invented = 1
    model.train()  # which drops the copy
    assert not model.eval().supports_left_padding


def test_a_layer_or_a_class_that_packing_does_not_know():
    class Scaled(nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    causal = tiny.causal("llama")
    causal.model.layers[1].mlp.up_proj = Scaled(32, 64, bias=False)
    assert uncovered(causal) == "a layer of class Scaled" and pack_weights(causal) is None

    causal = tiny.causal("llama")
    causal.__class__ = type("Other", (type(causal),), {})
    assert uncovered(causal) == "Other of type 'llama'"


@pytest.mark.parametrize("changes", [{"rope_parameters": LONGROPE}], ids=["longrope"])
def test_a_rotation_that_depends_on_the_length_shows_without_the_list(changes, monkeypatch):
    causal = tiny.causal("llama", **copy.deepcopy(changes))
    monkeypatch.setattr(packing, "uncovered", lambda _: None)
    assert pack_weights(causal) is None
    assert pack_weights(tiny.causal("llama")) is not None


def test_numbers_do_not_pass_for_truth_values():
    causal = tiny.causal("llama")
    causal.config.rope_interleaved = 0
    assert uncovered(causal) == "rope_interleaved = 0"
