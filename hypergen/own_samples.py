"""The training set drawn from the base itself: hyperfitting without data.

Sequences are sampled from the start token at temperature 1 with top-p .95, seeded, through the one decoding loop. The
held-out set is drawn with another seed, so it is new to the model as well.
Does not know: what the sequences say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergen.batches import generator
from hypergen.config import DecodingConfig
from hypergen.generation import generate

TEMPERATURE, TOP_P = 1.0, 0.95
BATCH_SIZE = 64


def draw(modality: Any, count: int, sequence_length: int, seed: int, purpose: str) -> Tensor:
    """(count, sequence_length) ids from the start token on, by the modality's model.

    Args:
        purpose: `training` or `held-out`; part of the seed.
    """
    derived = int(torch.randint(2**62, (1,), generator=generator(seed, "own samples", purpose)))
    top_k = modality.model.num_tokens  # no cut but top-p
    decoding = DecodingConfig(
        strategy="top-p", temperature=TEMPERATURE, top_p=TOP_P, top_k=top_k, stop_at_end=False, seed=derived
    )
    prompt = modality.begin(torch.empty(count, 0, dtype=torch.long))
    new = sequence_length - prompt.shape[1]
    label = f"draw {count} {purpose} sequences from the base"
    completions = generate(modality.model, prompt, new, decoding, batch_size=BATCH_SIZE, label=label)
    return torch.cat([prompt, completions], 1)
