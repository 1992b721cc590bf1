"""Measure a model's next-token predictions on given sequences: loss, perplexity, entropy, top-k probabilities.

Sharp predictions on sequences never trained on are the mark of a hyperfitted model (arXiv 2412.04318, Table 3).
Logits exist for one chunk of positions at a time, so neither (N, T, V) nor (B, T, V) ever does.
Does not know what a token means.

Shape letters: N sequences, B batch, T tokens, C positions of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hypergen.data.loss_mask import sequence_values
from hypergen.errors import InputError
from hypergen.kernels.native_loss import sharpness_native
from hypergen.modality import Predictor
from hypergen.runtime.evaluation_mode import evaluating
from hypergen.runtime.progress import Advance, no_progress

Measure = Callable[[Tensor, Tensor], dict[str, Tensor]]  # logits (C, V) and ids (C,) -> name -> (C,)


def prediction_values(
    model: Predictor,
    tokens: Tensor,
    *,
    loss_mask: Tensor | None = None,
    batch_size: int = 8,
    chunk: int = 1024,
    advance: Advance = no_progress,
) -> dict[str, Tensor]:
    """Measure how a model predicts tokens 1 to T - 1 of each sequence, given the true past.

    Without a mask all tokens but the first count, those of a prompt too.

    Args:
        model: as in `per_position`.
        tokens: (N, T) ids, T >= 2.
        loss_mask: (N, T), the tokens that count; their mean is then that of the values (`sequence_values`).
        batch_size: sequences computed together.
        chunk: positions whose logits exist together.
        advance: as in `per_position`.

    Returns:
        name -> (N,) means over the T - 1 predictions of a sequence, float64: `loss` (cross-entropy, nats per token, 0
        or more), `entropy` (of the predicted distribution, nats, 0 to ln V), `top1_probability`, `top3_probability`,
        `top5_probability` (of the 1, 3, 5 most likely tokens together, 0 to 1). Source: arXiv 2412.04318, Table 3.

    Raises:
        InputError: there is nothing to predict, or a sequence exceeds the model's context.
    """
    numbers = per_position(model, tokens, sharpness, batch_size=batch_size, chunk=chunk, advance=advance)
    return {name: sequence_values(values, loss_mask) for name, values in numbers.items()}


def predictions(
    model: Predictor, tokens: Tensor, *, batch_size: int = 8, chunk: int = 1024, advance: Advance = no_progress
) -> dict[str, float]:
    """Average `prediction_values` over all sequences, and add `perplexity`, that of the mean loss."""
    values = prediction_values(model, tokens, batch_size=batch_size, chunk=chunk, advance=advance)
    means = {name: float(value.nanmean()) for name, value in values.items()}
    return means | {"perplexity": perplexity(means["loss"])}


def perplexity(loss: float) -> float:
    """Compute exp(loss), 1 or more, of a mean cross-entropy in nats per token; infinite where it would overflow.

    Source: arXiv 2412.04318, Tables 1 and 3.
    """
    return math.exp(loss) if loss < 700 else math.inf


def per_position(
    model: Predictor,
    tokens: Tensor,
    measure: Measure,
    *,
    ids: Tensor | None = None,
    batch_size: int = 8,
    chunk: int = 1024,
    advance: Advance = no_progress,
) -> dict[str, Tensor]:
    """Apply `measure` to the model's prediction at each of tokens 1 to T - 1, given the true past.

    Args:
        model: measured in evaluation mode, left in the mode that it had.
        tokens: (N, T) ids, T >= 2; what is predicted of padding is for the caller to leave out.
        measure: logits (C, V) and ids (C,) -> name -> (C,).
        ids: (N, T - 1) ids that `measure` gets beside the logits; by default the tokens to predict.
        batch_size: sequences computed together.
        chunk: positions whose logits exist together.
        advance: told of each batch (`progress.track` over N).

    Returns:
        name -> (N, T - 1), on the CPU.

    Raises:
        InputError: there is nothing to predict, or a sequence exceeds the model's context.
    """
    _require_predictable(tokens, model.context_length)
    ids = tokens[:, 1:] if ids is None else ids
    device = next(model.parameters()).device
    parts = []
    with evaluating(model), torch.inference_mode():
        for batch, batch_ids in zip(tokens.split(batch_size), ids.split(batch_size), strict=True):
            parts.append(_measured(model, batch.to(device), batch_ids.to(device), measure, chunk))
            advance(len(batch), tokens=batch.numel())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _measured(model: Predictor, batch: Tensor, ids: Tensor, measure: Measure, chunk: int) -> dict[str, Tensor]:
    """Apply `measure` to one batch: (B, T) ids and (B, T - 1) ids -> name -> (B, T - 1), on the CPU."""
    hidden = model.hidden(batch[:, :-1]).flatten(0, 1)  # without the last token: nothing follows it to be predicted
    pieces = zip(hidden.split(chunk), ids.flatten().split(chunk), strict=True)
    numbers = [measure(model.head(piece), piece_ids) for piece, piece_ids in pieces]
    return {name: torch.cat([piece[name] for piece in numbers]).view_as(ids).cpu() for name in numbers[0]}


def sharpness(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compute loss, entropy and top-k probabilities: logits (C, V) and the true ids (C,) -> name -> (C,)."""
    if (native := sharpness_native(logits, targets)) is not None:
        tops = {f"top{k}_probability": native.top[:, k - 1] for k in (1, 3, 5)}
        return {"loss": native.losses, "entropy": native.entropies, **tops}
    log_probabilities = functional.log_softmax(logits.float(), -1)
    losses = -log_probabilities.gather(1, targets[:, None]).squeeze(1)
    probabilities = log_probabilities.exp()
    log_probabilities.clamp_(min=torch.finfo(torch.float32).min)  # 0 * log 0 is 0 in an entropy, and never 0 * -inf
    top = probabilities.topk(min(5, probabilities.shape[1])).values
    return {
        "loss": losses,
        "entropy": -torch.einsum("cv,cv->c", probabilities, log_probabilities),
        **{f"top{k}_probability": top[:, :k].sum(-1) for k in (1, 3, 5)},
    }


def _require_predictable(tokens: Tensor, context_length: int) -> None:
    shape = tuple(tokens.shape)
    if len(shape) != 2 or shape[0] < 1 or not 2 <= shape[1] <= context_length:
        allowed = f"(N, T) with N 1 or more and T from 2 to the model's context of {context_length}"
        raise InputError(f"tokens of shape {shape}: must be {allowed}")
