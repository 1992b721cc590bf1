"""Make the models and prompts that `speed.py` measures on, for each preset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ImageGPTConfig, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

import hypergen
from hypergen.options import embedded_base
from hypergen.text.model import TextModel

Case = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Hold the sizes of the models; `text` None: the embedded base."""

    device: str
    text: PreTrainedConfig | None
    image: ImageGPTConfig
    wide_vocabulary: LlamaConfig


PRESETS = {
    "cpu": Preset(
        device="cpu",
        text=None,
        image=ImageGPTConfig(vocab_size=513, n_positions=1024, n_embd=256, n_layer=6, n_head=8),
        wide_vocabulary=LlamaConfig(
            vocab_size=128_000, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4
        ),
    ),
    "gpu": Preset(
        device="cuda",
        text=LlamaConfig(
            vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
            num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
        ),
        image=ImageGPTConfig(vocab_size=513, n_positions=1024, n_embd=512, n_layer=24, n_head=8),
        wide_vocabulary=LlamaConfig(
            vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=4, num_attention_heads=32
        ),
    ),
}  # fmt: skip


# Models and prompts.


def text_model(preset: Preset) -> TextModel:
    """Load the embedded base, or make a model of random weights."""
    if preset.text is None:
        return hypergen.load(embedded_base("text"), device=preset.device).modality.model.eval()
    torch.manual_seed(0)
    return TextModel(LlamaForCausalLM(preset.text)).to(preset.device).eval()


def story_prompts(preset: Preset, lengths: list[int]) -> list[Tensor]:
    """Cut openings of stories for the embedded base; draw random ids for random weights."""
    if preset.text is not None:
        draw = torch.Generator().manual_seed(1)
        return [torch.randint(5, preset.text.vocab_size, (n,), generator=draw).to(preset.device) for n in lengths]
    base = embedded_base("text")
    tokenizer = hypergen.load(base, device="cpu").modality.tokenizer
    rows = (Path(base).parent / "stories.jsonl").read_text().splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    return [torch.tensor(tokenizer(texts[i % len(texts)])["input_ids"][:n]) for i, n in enumerate(lengths)]
