"""Read a loss mask: which tokens of a sequence the loss counts, where its prompt ends and where its padding begins.

A mask (N, T) is True at the tokens that a model is to predict. What lies before the first of them is the prompt, what
lies behind the last one is padding, which no causal model sees. Without a mask every token but the first counts.

Shape letters: N sequences, T tokens, P prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergen.modality import Modality


def is_content(loss_mask: Tensor) -> Tensor:
    """Tell the tokens of sequences from their padding: (N, T) -> (N, T), False behind the last token that counts."""
    return loss_mask.int().flip(1).cummax(1).values.flip(1).bool()


def without_padding(tokens: Tensor, loss_mask: Tensor | None) -> list[Tensor]:
    """Cut the padding off sequences (N, T): N rows, of all tokens where there is no mask."""
    if loss_mask is None:
        return list(tokens)
    return [row[:length] for row, length in zip(tokens, is_content(loss_mask).sum(1).tolist(), strict=True)]


def cut_prompts(modality: Modality, tokens: Tensor, loss_mask: Tensor | None) -> Tensor | list[Tensor]:
    """Cut the prompts off held-out sequences (N, T): (N, P), or rows (P,) where they differ in length.

    With a mask a prompt is what lies before the first token that counts, and at least one token; without, the modality
    says.
    """
    if loss_mask is None:
        return modality.prompts(tokens)
    lengths = loss_mask.int().argmax(1).clamp(min=1).tolist()
    rows = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    return torch.stack(rows) if len(set(lengths)) == 1 else rows


def num_completed(prompts: Sequence[Tensor] | Tensor, sequence_length: int, context_length: int) -> int:
    """Count the tokens that completions of held-out prompts (P,) may have, all of them the same number.

    As many as the shortest prompt leaves of its sequence, so that originals are shown as far as they go, and at most
    what the longest one leaves of the model's context.
    """
    lengths = [len(prompt) for prompt in prompts]
    return min(sequence_length - min(lengths), context_length - max(lengths))


def cut_originals(
    tokens: Tensor, loss_mask: Tensor | None, prompts: Sequence[Tensor] | Tensor, most: int
) -> list[Tensor]:
    """Cut what follows the prompts (P,) out of sequences (N, T): N rows of at most `most` tokens, without padding."""
    rows = without_padding(tokens, loss_mask)
    return [row[len(prompt) :][:most] for row, prompt in zip(rows, prompts, strict=True)]


def sequence_values(values: Tensor, loss_mask: Tensor | None) -> Tensor:
    """Average values of predictions (N, T - 1) over each sequence: -> (N,), whose mean is that over all predictions.

    With a mask only those count that it has. As sequences then have different numbers of them, a sequence's value is
    its sum over the mean of these numbers, so that the mean over sequences is that over tokens, not a mean of means.
    """
    if loss_mask is None:
        return values.double().mean(1)
    counted = loss_mask[:, 1:]
    return values.double().where(counted, 0.0).sum(1) / counted.sum(1).double().mean()
