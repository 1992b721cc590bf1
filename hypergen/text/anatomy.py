"""Where things are inside any causal language model of transformers: blocks, tail, context, what turns D into logits.

Nothing is known by architecture: one tiny batch runs through the model with hooks, and what runs last is the tail.
Does not know: texts, training, decoding, caches.

Shape letters: B batch, T tokens, V vocabulary, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

UNLIMITED_CONTEXT = 2**31 - 1
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length")
RANDOM_FIELD = re.compile(r"drop|jitter")  # dropout, layerdrop, embd_pdrop, router_jitter_noise, ...


@dataclass(frozen=True)
class Anatomy:
    """Dotted names inside the causal model, found once."""

    blocks: str | None
    """The list of transformer blocks; None where there is no such list."""
    block_outputs: int
    """How many values a block returns; 0: a bare tensor instead of a tuple."""
    tail: tuple[str, ...]
    """Modules with weights of their own that run after the last block, untied head included."""


def text_config(causal: PreTrainedModel) -> PreTrainedConfig:
    """The part of the configuration that describes the language model."""
    return causal.config.get_text_config(decoder=True)


def body(causal: PreTrainedModel) -> PreTrainedModel:
    """The model without its head; the model itself where the two cannot be told apart."""
    if causal.base_model is not causal:
        return causal.base_model  # type: ignore[return-value]
    return next((module for module in causal.children() if isinstance(module, PreTrainedModel)), causal)


def context_length(config: PreTrainedConfig) -> int:
    """The most tokens a sequence may have, as the configuration says; sliding windows are ignored."""
    lengths = (getattr(config, name, None) for name in CONTEXT_FIELDS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), UNLIMITED_CONTEXT)


def disable_randomness(causal: PreTrainedModel) -> None:
    """Dropout, layer drop and router jitter become 0, in the configuration and in every module."""
    for module in causal.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _zero_floats(module)
    for config in {id(c): c for c in (causal.config, text_config(causal))}.values():
        _zero_floats(config)


def _zero_floats(owner: Any) -> None:
    for name, value in list(vars(owner).items()):
        if RANDOM_FIELD.search(name) and isinstance(value, float) and value:
            setattr(owner, name, 0.0)


def silence_padding_warning(causal: PreTrainedModel) -> None:
    """Batches are never padded here, so an id that equals the padding id is a token (and reading it back is slow)."""
    for module in causal.modules():
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = _no_padding  # type: ignore[method-assign]


def _no_padding(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    pass


def finish(causal: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What the architecture does to the output embedding's result: scaling (Cohere, Granite), soft cap (Gemma).

    A guess from the configuration; `model.TextModel` checks it against the model's own logits.
    """
    config = text_config(causal)
    scale = 1.0
    for name, power in (("logit_scale", 1), ("logits_scaling", -1), ("lm_head_multiplier", 1)):
        scale *= (getattr(config, name, None) or 1.0) ** power
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)

    def finished(logits: Tensor) -> Tensor:
        if scale != 1.0:
            logits = logits * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return finished


def study(causal: PreTrainedModel, run: Callable[[], Any]) -> Anatomy:
    """Find blocks and tail by watching one forward pass, which `run` performs."""
    blocks = find_blocks(causal)
    tail = _untied_head(causal)
    if blocks is None:
        return Anatomy(None, 0, tail)
    last, events = causal.get_submodule(blocks)[-1], []  # type: ignore[index]
    inside = set(last.modules())
    outside = [(name, m) for name, m in causal.named_modules() if m not in inside and m._parameters]
    with _watched([("", last), *outside], lambda name, output: events.append((name, output))):
        run()
    outputs = [output for name, output in events if name == ""]
    if not outputs:
        return Anatomy(None, 0, tail)
    after = [name for name, _ in events[[name for name, _ in events].index("") + 1 :]]
    head = {name for name, module in causal.named_modules() if module is causal.get_output_embeddings()}
    block_outputs = len(outputs[0]) if isinstance(outputs[0], tuple) else 0
    norms = tuple(name for name in dict.fromkeys(after) if name and name not in head)
    return Anatomy(blocks, block_outputs, norms + tail)


def find_blocks(causal: PreTrainedModel) -> str | None:
    """The first list of modules that is as long as the configuration says; vision towers and encoders are not it."""
    count = getattr(text_config(causal), "num_hidden_layers", None)
    for name, module in causal.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and not re.search("vision|audio|encoder", name):
            return name
    return None


def _untied_head(causal: PreTrainedModel) -> tuple[str, ...]:
    head = causal.get_output_embeddings()
    if head is None or head.weight is causal.get_input_embeddings().weight:
        return ()
    return tuple(name for name, module in causal.named_modules() if module is head)


@contextmanager
def _watched(modules: list[tuple[str, nn.Module]], note: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `note(name, output)` after each of these modules ran."""
    handles = [m.register_forward_hook(lambda _m, _i, out, name=name: note(name, out)) for name, m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
