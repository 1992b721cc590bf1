"""Calibrate the two controls that ask whether hyperfitting is more than a rescaling of the base (arXiv 2605.22579).

`matching_temperature` finds the temperature at which the base's mean entropy equals the hyperfitted model's.
`log_probability_change` estimates one vector for the base's logits: the mean change that hyperfitting brings.
`Adjusted` is the base with either. Logits exist for at most CHUNK positions at a time, so (N, T, V) never does.
Does not know what a token means.

Shape letters: N sequences, T tokens, B batch, P prompt, C positions of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from hypergen.errors import InputError
from hypergen.modality import Decoder, KvCache, Predictor, TokenModel
from hypergen.runtime.evaluation_mode import evaluating
from hypergen.runtime.progress import Advance, no_progress, track

CHUNK, BATCH_SIZE = 1024, 8
LOWEST, HIGHEST = 1e-3, 1e3  # temperatures between which the search stays
MAX_STEPS = 60


def matching_temperature(
    model: Predictor,
    tokens: Tensor,
    entropy: float,
    tolerance: float = 5e-4,
    *,
    label: str = "",
    loss_mask: Tensor | None = None,
) -> float:
    """Find the temperature at which the mean entropy of the predictions within `tokens` (N, T) is `entropy` (nats).

    Entropy rises with T, by Var(logits / T) for each unit of ln T: Newton steps, and bisection where one would leave
    the bracket. The hidden states (N, T - 1, D) are computed once and kept on the CPU.

    Args:
        model: the base.
        tokens: on whose predictions the entropies are compared.
        entropy: to be reached.
        tolerance: nats.
        label: of the progress, which is that of the hidden states and of each temperature; empty: none is shown.
        loss_mask: (N, T), the tokens whose predictions count; None: all but the first.

    Raises:
        InputError: no temperature from 0.001 to 1000 gives this entropy.
    """
    low, high, temperature = LOWEST, HIGHEST, 1.0
    with evaluating(model), torch.inference_mode():
        with track(label, len(tokens), transient=True) as advance:
            hidden = list(_hidden_states(model, tokens, loss_mask, advance))
        for _ in range(MAX_STEPS):
            at_label = label and f"{label}, entropy at temperature {temperature:.3g}"
            with track(at_label, sum(map(len, hidden)), transient=True) as advance:
                found, slope = _entropy_at(model, hidden, temperature, advance)
            if abs(found - entropy) <= tolerance:
                return temperature
            low, high = (temperature, high) if found < entropy else (low, temperature)
            newton = temperature * math.exp(max(-9.0, min(9.0, (entropy - found) / max(slope, 1e-9))))
            temperature = newton if low < newton < high else math.sqrt(low * high)
    raise InputError(f"entropy of {entropy:.3f} nats: no temperature from {LOWEST:g} to {HIGHEST:g} gives it")


def log_probability_change(
    trained: Predictor, base: Predictor, tokens: Tensor, *, label: str = "", loss_mask: Tensor | None = None
) -> Tensor:
    """Subtract the base's `mean_log_probabilities` from the trained model's: (V,); an empty label shows no progress."""
    with track(label, 2 * len(tokens), transient=True) as advance:
        before, after = (mean_log_probabilities(model, tokens, advance, loss_mask) for model in (base, trained))
        return after - before


def mean_log_probabilities(
    model: Predictor, tokens: Tensor, advance: Advance = no_progress, loss_mask: Tensor | None = None
) -> Tensor:
    """Average the log-probability of each id over all predictions within `tokens` (N, T): (V,) float64 on the CPU.

    With a loss mask (N, T), over those that it counts.
    """
    total, count = torch.zeros(1, dtype=torch.float64), 0
    with evaluating(model), torch.inference_mode():
        for logits in _logits(model, _hidden_states(model, tokens, loss_mask, advance)):
            total = total + logits.log_softmax(-1).sum(0).double().cpu()
            count += len(logits)
    return total / count


@final
class Adjusted(nn.Module):
    """Divide the logits of another model by a temperature and add a vector (V,); never trained."""

    def __init__(self, model: TokenModel, temperature: float = 1.0, bias: Tensor | None = None):
        """Wrap a model; the bias moves to its device and dtype."""
        super().__init__()
        self.model, self.temperature = model, temperature
        self.num_tokens, self.context_length = model.num_tokens, model.context_length
        self.supports_left_padding = model.supports_left_padding
        bias = torch.zeros(()) if bias is None else bias
        self.bias = bias.to(next(model.parameters()))

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits: (B, T) ids -> (B, T, V)."""
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute the last hidden states: (B, T) ids -> (B, T, D)."""
        return self.model.hidden(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        """Compute adjusted logits: (..., D) -> (..., V)."""
        return self._adjust(self.model.head(hidden))

    def prefill(
        self, prompt: Tensor, max_new_tokens: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, KvCache]:
        """Compute the prompt: (B, P) ids -> adjusted logits (B, V), and the model's cache of the prefix."""
        logits, kv_cache = self.model.prefill(prompt, max_new_tokens, num_padding, native=native)
        return self._adjust(logits), kv_cache

    def decode_step(self, token: Tensor, kv_cache: KvCache) -> tuple[Tensor, KvCache]:
        """Decode one token: (B,) ids -> adjusted logits (B, V), and the longer cache."""
        logits, kv_cache = self.model.decode_step(token, kv_cache)
        return self._adjust(logits), kv_cache

    def select_rows(self, kv_cache: KvCache, rows: Tensor) -> KvCache:
        """Keep these rows (B',) of a cache."""
        return self.model.select_rows(kv_cache, rows)

    def _adjust(self, logits: Tensor) -> Tensor:
        return logits / self.temperature + self.bias


if TYPE_CHECKING:
    _PREDICTOR: type[Predictor] = Adjusted
    _DECODER: type[Decoder] = Adjusted


def _hidden_states(model: Predictor, tokens: Tensor, loss_mask: Tensor | None, advance: Advance) -> Iterator[Tensor]:
    """Compute hidden states on the CPU: (N, T) ids -> (B * (T - 1), D) of each batch; one counts when it is used.

    With a loss mask (N, T), those alone that predict a token that counts.
    """
    device = next(model.parameters()).device
    counted = [slice(None)] * len(tokens) if loss_mask is None else loss_mask[:, 1:].split(BATCH_SIZE)
    for batch, kept in zip(tokens.split(BATCH_SIZE), counted, strict=False):
        hidden = model.hidden(batch[:, :-1].to(device)).flatten(0, 1).cpu()
        yield hidden if isinstance(kept, slice) else hidden[kept.flatten()]
        advance(len(batch))


def _logits(model: Predictor, hidden: Iterable[Tensor]) -> Iterator[Tensor]:
    """Turn hidden states into fp32 logits (C, V), a chunk at a time."""
    device = next(model.parameters()).device
    for states in hidden:
        for piece in states.split(CHUNK):
            yield model.head(piece.to(device)).float()


def _entropy_at(model: Predictor, hidden: list[Tensor], temperature: float, advance: Advance) -> tuple[float, float]:
    """Compute the mean entropy at a temperature, nats, and its derivative by ln T."""
    entropy = slope = 0.0
    count = 0
    for logits in _logits(model, hidden):
        scaled = logits / temperature
        log_probabilities = scaled.log_softmax(-1)
        probabilities = log_probabilities.exp()
        surprise = -log_probabilities.clamp(min=torch.finfo(torch.float32).min)  # 0 * inf must be 0
        mean = (probabilities * surprise).sum(-1, keepdim=True)
        entropy += float(mean.sum(dtype=torch.float64))
        slope += float((probabilities * (surprise - mean) ** 2).nan_to_num().sum(dtype=torch.float64))
        count += len(logits)
        advance(len(logits))
    return entropy / count, slope / count
