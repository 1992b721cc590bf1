"""Compare the choices of two models: top-1 agreement, ranks in the base, overridden choices, agreement with bf16.

The two models need not be in memory together: each is asked alone for small tensors of ids or ranks, which are compared
afterwards. A rank is 1 for the most likely token; of tokens equally likely the lower id comes first, as in an argmax.
Source of the metrics: arXiv 2605.22579 (top-1 agreement, rank reordering).
Does not know what a token means.

Shape letters: N sequences, B completions, T tokens, P prompt, S completion, C positions of one chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hypergen.data.loss_mask import sequence_values
from hypergen.decoding.end_tokens import trim
from hypergen.decoding.loop import bf16_copy
from hypergen.errors import InputError
from hypergen.evaluation.predictions import per_position
from hypergen.modality import Predictor
from hypergen.runtime.progress import Advance, no_progress, track

DEEP = 10  # an override is deep when the base ranked the chosen token below this (arXiv 2605.22579)


def top_tokens(model: Predictor, tokens: Tensor, *, batch_size: int = 8, advance: Advance = no_progress) -> Tensor:
    """Find the most likely ids: (N, T) ids -> (N, T - 1), the argmax at each of tokens 1 to T - 1, on the CPU.

    Raises:
        InputError: as `predictions.per_position`.
    """

    def top(logits: Tensor, _: Tensor) -> dict[str, Tensor]:
        return {"top": logits.argmax(-1)}

    return per_position(model, tokens, top, batch_size=batch_size, advance=advance)["top"]


def ranks(
    model: Predictor, tokens: Tensor, ids: Tensor, *, batch_size: int = 8, advance: Advance = no_progress
) -> Tensor:
    """Rank `ids[n, t]` in the model's prediction after `tokens[n, : t + 1]`: (N, T - 1) from 1 to V, on the CPU.

    Args:
        model: whose prediction ranks.
        tokens: (N, T) ids, the true past of each prediction.
        ids: (N, T - 1), such as `top_tokens` of another model, or `tokens[:, 1:]`.
        batch_size: sequences computed together.
        advance: as in `predictions.per_position`.

    Raises:
        InputError: `ids` has another shape, or as `predictions.per_position`.
    """
    if ids.shape != tokens[:, 1:].shape:
        raise InputError(f"ids of shape {tuple(ids.shape)}: must be {tuple(tokens[:, 1:].shape)}, one a prediction")
    return per_position(model, tokens, _rank, ids=ids, batch_size=batch_size, advance=advance)["rank"]


def choice_ranks(
    model: Predictor,
    prompts: Sequence[Tensor] | Tensor,
    completions: Tensor,
    end_tokens: Sequence[int] = (),
    *,
    batch_size: int = 8,
    advance: Advance = no_progress,
) -> list[Tensor]:
    """Rank each token of a completion in the model's prediction, given the prompt and the completion so far.

    Args:
        model: the base, where the completions are another model's.
        prompts: (B, P), or B prompts (P,) of any lengths; start token included.
        completions: (B, S).
        end_tokens: ids after which completions are padding, where they stopped there; neither counts.
        batch_size: completions computed together.
        advance: as in `predictions.per_position`.

    Returns:
        B tensors (S,), shorter where a completion ended earlier.
    """
    starts = [len(prompt) - 1 for prompt in prompts]
    rows = [torch.cat([prompt.cpu(), row]) for prompt, row in zip(prompts, completions.cpu(), strict=True)]
    tokens = pad_sequence(rows, batch_first=True)  # on the right, where a causal model does not see it
    found = ranks(model, tokens, tokens[:, 1:], batch_size=batch_size, advance=advance)
    kept = map(len, trim(completions.cpu(), end_tokens))
    return [row[start : start + length] for row, start, length in zip(found, starts, kept, strict=True)]


def agreement_values(top: Tensor, base_top: Tensor, loss_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Compute top-1 agreement from `top_tokens` of two models on the same sequences -> `agreement` (N,).

    The share (0 to 1) of positions where the two ids are equal, of those that a loss mask (N, T) counts
    (`sequence_values`).
    Source: arXiv 2605.22579 (.57 for TinyLlama); arXiv 2412.04318, section 6.1 (between two runs).

    Raises:
        InputError: they are of different shapes.
    """
    if top.shape != base_top.shape:
        raise InputError(f"most likely tokens of shapes {tuple(top.shape)} and {tuple(base_top.shape)}: must be equal")
    return {"agreement": sequence_values(top == base_top, loss_mask)}


def rank_shift_values(base_ranks: Tensor, loss_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Average `ranks(base, held_out, top_tokens(model, held_out))` over positions -> `rank_shift` (N,).

    With a loss mask (N, T), over those that it counts (`sequence_values`).

    1 (the base's own choices) to V. A few tokens from far down the list dominate this mean.
    Source: arXiv 2605.22579, rank reordering.
    """
    return {"rank_shift": sequence_values(base_ranks, loss_mask)}


def override_values(base_ranks: Sequence[Tensor] | Tensor) -> dict[str, Tensor]:
    """Compute override shares from `choice_ranks(base, ...)` of a model's greedy completions -> name -> (B,).

    `override`: share (0 to 1) of a completion's tokens that are not the base's most likely; nan where it has none.
    `override_deep`: share of those that the base ranks below 10; nan where nothing is overridden.
    Source: arXiv 2605.22579 (39.1 % and 12.9 % for TinyLlama).
    """
    overridden = [row[row > 1] for row in base_ranks]
    return {
        "override": _shares([(len(part), len(row)) for part, row in zip(overridden, base_ranks, strict=True)]),
        "override_deep": _shares([(int((part > DEEP).sum()), len(part)) for part in overridden]),
    }


def bf16_agreement(model: Predictor, sequences: Sequence[Tensor], *, label: str = "") -> tuple[float, int]:
    """Compare a model with its bf16 copy: top-1 agreement after the tokens of sequences (T,), and positions compared.

    A user of `--precision bf16` learns from it how often full precision would have chosen otherwise. `label`: of the
    progress; empty: none is shown.
    """
    copied, num_equal, num_positions = bf16_copy(model), 0, 0
    with track(label, len(sequences), transient=True) as advance:
        for sequence in sequences:
            full, rounded = (top_tokens(either, sequence[None]) for either in (model, copied))
            num_equal += int((full == rounded).sum())
            num_positions += full.numel()
            advance()
    return num_equal / max(1, num_positions), num_positions


def _rank(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Rank ids (C,) in logits (C, V): 1 for the most likely."""
    own = logits.gather(1, ids[:, None])
    lower_id = torch.arange(logits.shape[1], device=ids.device) < ids[:, None]
    return {"rank": 1 + ((logits > own) | ((logits == own) & lower_id)).sum(1)}


def _shares(counts: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([part / whole if whole else math.nan for part, whole in counts], dtype=torch.float64)
