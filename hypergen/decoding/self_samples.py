"""Sample the training set from the base itself: hyperfitting without data.

Sequences are sampled from the start token at temperature 1 with top-p .95, seeded, through the one decoding loop. The
held-out set has another purpose and thus another seed, so it is new to the model as well.
Does not know what a token means.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from hypergen.modality import Modality
from hypergen.runtime.seeding import seeded_generator

TEMPERATURE, TOP_P = 1.0, 0.95
BATCH_SIZE = 64


def sample_training_set(modality: Modality, count: int, *, seed: int, purpose: str) -> Tensor:
    """Sample sequences from the start token on, by the modality's model: -> (N, T), T its sequence length.

    Args:
        modality: the base.
        count: N.
        seed: of the whole job.
        purpose: `training` or `held-out`; part of the seed.
    """
    derived = int(torch.randint(2**62, (1,), generator=seeded_generator(seed, "own samples", purpose)))
    top_k = modality.model.num_tokens  # no cut but top-p
    decoding = DecodingConfig(
        strategy="top-p", temperature=TEMPERATURE, top_p=TOP_P, top_k=top_k, stop_at_end=False, seed=derived
    )
    prompts = modality.add_start_tokens(torch.empty(count, 0, dtype=torch.long))
    new = modality.sequence_length - prompts.shape[1]
    label = f"draw {count} {purpose} sequences from the base"
    completions = generate(modality.model, prompts, new, decoding, batch_size=BATCH_SIZE, label=label)
    return torch.cat([prompts, completions], 1)
