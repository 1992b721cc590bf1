"""Choose bases, how they are hyperfitted, numbers of prompts and seeds for each preset of the cross-domain suite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

PICTURES, TEXTS = "--image-data", "--text-data"  # stand for what the user gives
SELF = "self"


@dataclass(frozen=True, kw_only=True)
class BasePlan:
    """Describe one base and how it is hyperfitted."""

    name: str
    options: dict[str, Any]
    """Keywords of `hypergen.fit` that all its trainings share."""
    data: str = SELF
    """Source that the run of the table is trained on."""
    other_data: str = SELF
    """Source that the row about data is trained on."""
    other_layers: int = 2
    """Last blocks that the row about layers trains; 0: all."""
    count: int = 64
    new_tokens: tuple[int | None, ...] = (None,)
    """Lengths of the completions; None: 96, or the rest of the picture."""


SAME_EVERYWHERE = {"precision": "fp32"}  # not by trial, so that a seed gives the same bytes each time
TINY = (
    # The card of the text base trains its last 2 blocks, that of the image base all.
    BasePlan(name="text", options={"modality": "text", **SAME_EVERYWHERE}, other_data="stories", other_layers=0),
    BasePlan(name="image", options={"modality": "image", **SAME_EVERYWHERE}, other_data=PICTURES, count=128),
)
SMALL_COUNTS = (120, 256)  # the stories that are held out give 126 prompts
PAPER_FIT = {"precision": "bf16"}
PRESETS: dict[str, tuple[tuple[BasePlan, ...], tuple[int, ...]]] = {
    # Bases and seeds.
    "tiny": (TINY, (0,)),
    "small": (tuple(replace(base, count=count) for base, count in zip(TINY, SMALL_COUNTS, strict=True)), (0, 1, 2)),
    "paper": (
        (
            BasePlan(
                name="tinyllama",
                options={"modality": "text", "model": "TinyLlama/TinyLlama_v1.1", **PAPER_FIT},
                data=TEXTS,
                other_layers=5,
                count=300,
                new_tokens=(128, 256),
            ),
            BasePlan(
                name="llama-3.1-8b",  # fp32 weights and Adam: about 128 GB
                options={"modality": "text", "model": "meta-llama/Llama-3.1-8B", **PAPER_FIT},
                data=TEXTS,
                other_layers=5,
                count=300,
                new_tokens=(128, 256),
            ),
            BasePlan(
                name="imagegpt-small",  # the paper does not say its learning rate for pictures: that for text
                options={
                    "modality": "image",
                    "model": "openai/imagegpt-small",
                    "allow_pickle_weights": True,  # of OpenAI, from before safetensors
                    **PAPER_FIT,
                },
                data="cifar10",
                other_layers=5,
                count=300,
            ),
        ),
        (0,),
    ),
}
