"""Numbers on ids and logits, the same for text and pictures: diversity of completions, sharpness of predictions.

Each number exists per row, in `..._values` (nan where a row is too short to have it), and as the mean over the rows
that have it (nan where none has). Padding never counts once completions went through `trim`.
Does not know: what a token means (`Modality.measures`), or where completions come from. The overlap with a training
set is in `citation`, the agreement of two models in `agreement`.

Shape letters: N sequences, B completions, T and S tokens, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hypergen.errors import InputError
from hypergen.progress import Advance

Completions = Sequence[Tensor] | Tensor  # B tensors of ids (S,), or one of (B, S)


def trim(tokens: Tensor, end_token: int | None) -> list[Tensor]:
    """Cut each row of (B, S) before its first end token; rows stay whole where there is no end token."""
    if end_token is None:
        return list(tokens)
    is_end = torch.cat([tokens == end_token, tokens.new_ones(len(tokens), 1, dtype=torch.bool)], 1)
    return [row[:length] for row, length in zip(tokens, is_end.int().argmax(1).tolist(), strict=True)]


def ttr_values(completions: Completions, window: int = 96) -> Tensor:
    """Type-token ratio of each completion, (B,): different tokens / tokens over its last `window` tokens.

    Above 0 to 1. Source: arXiv 2412.04318, Figures 2 and 9, which take the last 96 tokens.
    """
    _require_positive("ttr window", window)
    tails = [row[-window:] for row in _rows(completions)]
    return _values(len(row.unique()) / len(row) if len(row) else math.nan for row in tails)


def ttr(completions: Completions, window: int = 96) -> float:
    """Mean of `ttr_values`."""
    return _mean(ttr_values(completions, window))


def mattr_values(completions: Completions, window: int = 50) -> Tensor:
    """Moving-average type-token ratio of each completion, (B,): the mean ratio of all its windows of `window` tokens.

    Above 0 to 1; unlike `ttr` it does not fall with length. A shorter completion counts as one window.
    Source: Covington and McFall, "Cutting the Gordian knot", 2010.
    """
    _require_positive("mattr window", window)
    return _values(_mattr(row, window) if len(row) else math.nan for row in _rows(completions))


def mattr(completions: Completions, window: int = 50) -> float:
    """Mean of `mattr_values`."""
    return _mean(mattr_values(completions, window))


def repetition_values(completions: Completions, n: int) -> Tensor:
    """rep-n of each completion, (B,): 1 - different n-grams / n-grams, the last one included.

    0 (no n-gram twice) to below 1; nan for a completion below n tokens. Source: Welleck et al., arXiv 1908.04319; the
    bigram and trigram repetition of arXiv 2605.22579.
    """
    grams = [_grams(row, n) for row in _rows(completions)]
    return _values(1 - _num_different(rows) / len(rows) if len(rows) else math.nan for rows in grams)


def repetition(completions: Completions, n: int) -> float:
    """Mean of `repetition_values`."""
    return _mean(repetition_values(completions, n))


def distinct(completions: Completions, n: int) -> float:
    """distinct-n: different n-grams / n-grams over all completions together; nan where there is no n-gram.

    Above 0 to 1; falls when completions resemble each other, and with their number.
    Source: Li et al., arXiv 1510.03055.
    """
    grams = torch.cat([_grams(row, n) for row in _rows(completions)])
    return _num_different(grams) / len(grams) if len(grams) else math.nan


def diversity(completions: Completions) -> dict[str, float]:
    """All of the above with their default windows: `ttr`, `mattr`, `rep_2` to `rep_4`, `distinct_1` to `distinct_4`."""
    return {
        "ttr": ttr(completions),
        "mattr": mattr(completions),
        **{f"rep_{n}": repetition(completions, n) for n in (2, 3, 4)},
        **{f"distinct_{n}": distinct(completions, n) for n in (1, 2, 3, 4)},
    }


def prediction_values(
    model: Any, tokens: Tensor, *, batch_size: int = 8, chunk: int = 1024, advance: Advance | None = None
) -> dict[str, Tensor]:
    """How a model predicts tokens 1 to T - 1 of each sequence given the true past; the prompt's tokens count too.

    Args:
        model, tokens, advance: as in `per_position`.

    Returns:
        name -> (N,) means over the T - 1 predictions of a sequence, float64: `loss` (cross-entropy, nats per token, 0
        or more), `entropy` (of the predicted distribution, nats, 0 to ln V), `top1_probability`, `top3_probability`,
        `top5_probability` (of the 1, 3, 5 most likely tokens together, 0 to 1). Source: arXiv 2412.04318, Table 3.

    Raises:
        InputError: there is nothing to predict, or a sequence exceeds the model's context.
    """
    numbers = per_position(model, tokens, _sharpness, batch_size=batch_size, chunk=chunk, advance=advance)
    return {name: values.double().mean(1) for name, values in numbers.items()}


def predictions(
    model: Any, tokens: Tensor, *, batch_size: int = 8, chunk: int = 1024, advance: Advance | None = None
) -> dict[str, float]:
    """Means over all tokens of `prediction_values`, and `perplexity` of their loss."""
    values = prediction_values(model, tokens, batch_size=batch_size, chunk=chunk, advance=advance)
    means = {name: _mean(value) for name, value in values.items()}
    return means | {"perplexity": perplexity(means["loss"])}


def perplexity(loss: float) -> float:
    """exp(loss), 1 or more, of a mean cross-entropy in nats per token. Source: arXiv 2412.04318, Tables 1 and 3."""
    return math.exp(loss) if loss < 700 else math.inf


def per_position(
    model: Any,
    tokens: Tensor,
    measure: Callable[[Tensor, Tensor], dict[str, Tensor]],
    *,
    ids: Tensor | None = None,
    batch_size: int = 8,
    chunk: int = 1024,
    advance: Advance | None = None,
) -> dict[str, Tensor]:
    """What `measure` says of the model's prediction at each of tokens 1 to T - 1, given the true past.

    Logits exist for at most `chunk` positions at a time, so neither (N, T, V) nor (B, T, V) ever does.

    Args:
        model: a TokenModel that is an nn.Module; measured in evaluation mode, left as it was.
        tokens: (N, T) ids, T >= 2, without padding.
        measure: logits (C, V) and ids (C,) -> name -> (C,).
        ids: (N, T - 1), what `measure` is given beside the logits; the tokens to predict unless said.
        advance: told of each batch (`progress.track` over N).

    Returns:
        name -> (N, T - 1), on the CPU.

    Raises:
        InputError: there is nothing to predict, or a sequence exceeds the model's context.
    """
    _require_predictable(tokens, model.context_length)
    ids = tokens[:, 1:] if ids is None else ids
    was_training = model.training
    model.eval()
    parts = []
    with torch.inference_mode():
        for batch, asked in zip(tokens.split(batch_size), ids.split(batch_size), strict=True):
            device = next(model.parameters()).device
            parts.append(_measured(model, batch.to(device), asked.to(device), measure, chunk))
            if advance is not None:
                advance(len(batch), tokens=batch.numel())
    model.train(was_training)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def bootstrap_interval(
    values: Tensor | Sequence[float], seed: int, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """(low, high), in the unit of the values: the percentile bootstrap interval of their mean; nan values are skipped.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.

    Raises:
        InputError: no value is a number, or the level is not between 0 and 1.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    numbers = numbers[~numbers.isnan()]
    if not len(numbers):
        raise InputError(f"interval of {len(values)} values: at least 1 must be a number")
    if not 0 < level < 1:
        raise InputError(f"interval level {level}: must be between 0 and 1")
    _require_positive("resamples", resamples)
    generator = torch.Generator().manual_seed(seed)
    means = numbers[torch.randint(len(numbers), (resamples, len(numbers)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def _measured(
    model: Any, batch: Tensor, ids: Tensor, measure: Callable[[Tensor, Tensor], dict[str, Tensor]], chunk: int
) -> dict[str, Tensor]:
    """(B, T) ids and (B, T - 1) ids -> name -> (B, T - 1), on the CPU."""
    hidden = model.hidden(batch[:, :-1]).flatten(0, 1)  # a picture model has no position for the last code
    pieces = zip(hidden.split(chunk), ids.flatten().split(chunk), strict=True)
    numbers = [measure(model.head(piece), asked) for piece, asked in pieces]
    return {name: torch.cat([piece[name] for piece in numbers]).view_as(ids).cpu() for name in numbers[0]}


def _sharpness(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Logits (C, V) and the true ids (C,) -> name -> (C,)."""
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


def _mattr(row: Tensor, window: int) -> float:
    """A token is the first of its kind in a window where its previous occurrence lies before the window."""
    window = min(window, len(row))
    order = row.argsort(stable=True)
    same = row[order][1:] == row[order][:-1]
    previous = torch.full_like(row, -1, dtype=torch.long)
    previous[order[1:][same]] = order[:-1][same]
    starts = torch.arange(len(row) - window + 1, device=row.device)
    return float((previous.unfold(0, window, 1) < starts[:, None]).double().mean())


def _grams(row: Tensor, n: int) -> Tensor:
    """(S,) -> (S - n + 1, n), all runs of n tokens; none where S < n."""
    _require_positive("n-gram length", n)
    return row.unfold(0, n, 1) if len(row) >= n else row.new_empty(0, n)


def _num_different(grams: Tensor) -> int:
    return len(grams.unique(dim=0)) if len(grams) else 0


def _rows(completions: Completions) -> list[Tensor]:
    rows = list(completions)
    if not rows:
        raise InputError("measure of 0 completions: at least 1 is needed")
    if any(row.ndim != 1 for row in rows):
        raise InputError(f"completions of shape {tuple(rows[0].shape)}: must be (B, S), or B tensors of shape (S,)")
    return rows


def _values(numbers: Any) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _require_positive(what: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{what} {value}: must be 1 or more")


def _require_predictable(tokens: Tensor, context_length: int) -> None:
    shape = tuple(tokens.shape)
    if len(shape) != 2 or shape[0] < 1 or not 2 <= shape[1] <= context_length:
        allowed = f"(N, T) with N 1 or more and T from 2 to the model's context of {context_length}"
        raise InputError(f"tokens of shape {shape}: must be {allowed}")
