"""Find the parts of any causal language model of transformers: blocks, final modules, context, logit transform.

Nothing is looked up by architecture: one tiny batch runs through the model with hooks, and the modules that run after
the last block are the final ones.

Shape letters: B batch, T tokens, V vocabulary, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hypergen.errors import InputError

LONGEST_CONTEXT = 2**27  # tokens; the longest known is 2^23.3
UNLIMITED_CONTEXT = 2**31 - 1
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length")
RANDOM_FIELD = re.compile(r"drop|jitter")  # dropout, layerdrop, embd_pdrop, router_jitter_noise, ...
OTHER_STACKS = re.compile(r"vision|audio|encoder")  # lists of blocks that are not the language model's
LAST_BLOCK = ""  # its name among the events of a forward pass; no other module has it


@dataclass(frozen=True)
class ModelLayout:
    """Hold dotted names inside the causal model, found once."""

    blocks: str | None
    """The list of transformer blocks; None where there is no such list."""
    block_outputs: int
    """How many values a block returns; 0: a bare tensor instead of a tuple."""
    final_modules: tuple[str, ...]
    """Modules with weights of their own that run after the last block, untied head included."""


def text_config(causal: PreTrainedModel) -> PreTrainedConfig:
    """Return the part of the configuration that describes the language model."""
    return causal.config.get_text_config(decoder=True)


def body(causal: PreTrainedModel) -> PreTrainedModel:
    """Return the model without its head; the model itself where the two cannot be told apart."""
    if causal.base_model is not causal:
        return cast(PreTrainedModel, causal.base_model)
    return next((module for module in causal.children() if isinstance(module, PreTrainedModel)), causal)


def check_context(name: str, config: PreTrainedConfig) -> None:
    """Refuse a configuration whose context cannot be one: tables of that length would be computed.

    Raises:
        InputError: it is below 1 or above LONGEST_CONTEXT.
    """
    for field in CONTEXT_FIELDS:
        length = getattr(config, field, None)
        if isinstance(length, int) and not 1 <= length <= LONGEST_CONTEXT:
            raise InputError(f"{name}: its {field} is {length}; must be from 1 to {LONGEST_CONTEXT:,}")


def context_length(config: PreTrainedConfig) -> int:
    """Read the most tokens that a sequence may have from a configuration; sliding windows do not limit it."""
    lengths = (getattr(config, name, None) for name in CONTEXT_FIELDS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), UNLIMITED_CONTEXT)


def disable_randomness(causal: PreTrainedModel) -> None:
    """Set dropout, layer drop and router jitter to 0, in the configuration and in every module."""
    for module in causal.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _zero_random_fields(module)
    for config in {id(config): config for config in (causal.config, text_config(causal))}.values():
        _zero_random_fields(config)


def _zero_random_fields(owner: Any) -> None:
    for name, value in list(vars(owner).items()):
        if RANDOM_FIELD.search(name) and isinstance(value, float) and value:
            setattr(owner, name, 0.0)


def silence_padding_warning(causal: PreTrainedModel) -> None:
    """Switch off the search for padding ids in every batch.

    Batches are never padded here, so an id that equals the padding id is a token, and reading it back is slow.
    """
    for module in causal.modules():
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = _ignore_padding  # type: ignore[method-assign]


def _ignore_padding(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    pass


def logit_transform(causal: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Guess the function that follows the output embedding: scaling (Cohere, Granite), soft cap (Gemma).

    The guess comes from the configuration; `model.TextModel` checks it against the model's own logits.
    """
    config = text_config(causal)
    scale = 1.0
    for name, power in (("logit_scale", 1), ("logits_scaling", -1), ("lm_head_multiplier", 1)):
        scale *= (getattr(config, name, None) or 1.0) ** power
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)

    def transform(logits: Tensor) -> Tensor:
        if scale != 1.0:
            logits = logits * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return transform


def inspect_model(causal: PreTrainedModel, run: Callable[[], Any]) -> ModelLayout:
    """Find the blocks and the final modules by watching one forward pass, which `run` performs."""
    blocks, head = find_blocks(causal), _untied_head(causal)
    if blocks is None:
        return ModelLayout(None, 0, head)
    # 1. Watch the last block, and every module with weights of its own that is not inside it.
    last = cast(nn.ModuleList, causal.get_submodule(blocks))[-1]
    inside, events = set(last.modules()), []
    outside = [(name, module) for name, module in causal.named_modules() if module not in inside and module._parameters]
    with _watched([(LAST_BLOCK, last), *outside], lambda name, output: events.append((name, output))):
        run()
    # 2. Whatever ran after the last block, the head excepted, is final.
    outputs = [output for name, output in events if name == LAST_BLOCK]
    if not outputs:
        return ModelLayout(None, 0, head)
    names = [name for name, _ in events]
    heads = {name for name, module in causal.named_modules() if module is causal.get_output_embeddings()}
    after = dict.fromkeys(names[names.index(LAST_BLOCK) + 1 :])
    norms = tuple(name for name in after if name != LAST_BLOCK and name not in heads)
    return ModelLayout(blocks, len(outputs[0]) if isinstance(outputs[0], tuple) else 0, norms + head)


def find_blocks(causal: PreTrainedModel) -> str | None:
    """Find the first list of modules that is as long as the configuration says; vision towers and encoders are not."""
    count = getattr(text_config(causal), "num_hidden_layers", None)
    for name, module in causal.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and not OTHER_STACKS.search(name):
            return name
    return None


def _untied_head(causal: PreTrainedModel) -> tuple[str, ...]:
    head: Any = causal.get_output_embeddings()
    embedding: Any = causal.get_input_embeddings()
    if head is None or head.weight is embedding.weight:
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
