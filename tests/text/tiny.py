"""Tiny random models of the architectures that are promised, a tiny tokenizer, a few texts. Nothing is downloaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hypergen.text import adapter
from hypergen.text.config import Settings
from hypergen.text.modality import TextModality
from hypergen.text.model import TextModel
from hypergen.text.tokenizer import train_tokenizer

NUM_TOKENS = 300
CONTEXT = 64
SETTINGS = Settings(sequence_length=16, prompt_length=4)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "gemma2", "gemma3_text")
TEXTS = [
    "The ferryman rowed across the river in the morning and rowed back across the river in the evening.",
    "Nobody in the village had ever seen the sea, but everybody had an opinion about it, and the sea had none.",
    "On the first day it rained. On the second day it rained. On the third day the rain had had enough.",
    "Grüße aus Kōbe! \N{WAVING HAND SIGN} Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
] * 3

_SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": CONTEXT},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "gemma3_text": {
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
}


def config(kind: str, **changes: object) -> PreTrainedConfig:
    """4 blocks, width 32, grouped heads where the architecture has them, dropout on as in the originals."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
    }
    if kind not in ("gpt2", "gpt_neox", "opt", "mamba"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    sizes = (_SIZES[kind] if kind == "gpt2" else sizes | _SIZES.get(kind, {})) | changes
    return AutoConfig.for_model(
        kind, vocab_size=sizes.pop("vocab_size", NUM_TOKENS), bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes
    )


def causal(kind: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model with weights large enough that greedy decoding does not just repeat one id."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(kind, initializer_range=0.1, **changes), dtype=torch.float32)
    model.generation_config.do_sample = False
    return model.eval()


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, NUM_TOKENS)


def modality(kind: str = "llama", settings: Settings = SETTINGS, **changes: object) -> TextModality:
    return TextModality(TextModel(causal(kind, **changes)), tokenizer(), settings)


def with_begin_token() -> TextModality:
    """As Llama's tokenizers do: an id of its own in front of every text."""
    marked = train_tokenizer(TEXTS, NUM_TOKENS)
    marked.backend_tokenizer.add_special_tokens(["<s>"])
    begin = marked.convert_tokens_to_ids("<s>")
    marked.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
    )
    marked.bos_token = "<s>"
    return TextModality(TextModel(causal("llama", vocab_size=begin + 1)), marked, SETTINGS)


def load(source: Path | str, settings: Settings = SETTINGS) -> TextModality:
    return adapter.load(source=str(source), settings=settings, allow_pickle_weights=False)


def tokens(rows: int = 3, length: int = 24) -> torch.Tensor:
    """Random ids (rows, length), the same each time."""
    return torch.randint(0, NUM_TOKENS, (rows, length), generator=torch.Generator().manual_seed(1))


def greedy_ids(model: TextModel, prompt: torch.Tensor, count: int) -> list[list[int]]:
    """Completions of `count` ids a row, decoded with the cache."""
    logits, kv_cache = model.prefill(prompt, count)
    ids = [logits.argmax(-1)]
    for _ in range(count - 1):
        logits, kv_cache = model.decode_step(ids[-1], kv_cache)
        ids.append(logits.argmax(-1))
    return torch.stack(ids, 1).tolist()


def transformers_ids(model: PreTrainedModel, prompt: torch.Tensor, count: int) -> list[list[int]]:
    """The same by `generate` of transformers."""
    mask = torch.ones_like(prompt)
    whole = model.generate(
        input_ids=prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return whole[:, prompt.shape[1] :].tolist()


CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}\
{% endif %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def with_chat_template(settings: Settings = SETTINGS, template: str | None = CHAT_TEMPLATE) -> TextModality:
    """As models that were tuned to chat: marks of turns, an end token of its own, a template that begins with BOS."""
    marked = train_tokenizer(TEXTS, NUM_TOKENS)
    marked.backend_tokenizer.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    begin = marked.convert_tokens_to_ids("<s>")
    marked.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
    )
    marked.bos_token, marked.eos_token, marked.chat_template = "<s>", "<|im_end|>", template
    return TextModality(TextModel(causal("llama", vocab_size=begin + 3, max_position_embeddings=256)), marked, settings)
