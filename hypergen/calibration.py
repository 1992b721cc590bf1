"""The two controls that ask whether hyperfitting is more than a rescaling of the base (arXiv 2605.22579).

`matching_temperature`: the T at which the base is, on average, as sure as the hyperfitted model.
`log_probability_change`: one vector for the base's logits, the mean change that hyperfitting brings. `Adjusted`: the
base with either.
Logits exist for at most CHUNK positions at a time, so (N, T, V) never does.
Does not know: decoding, what a token means, how a model was trained.

Shape letters: N sequences, T tokens, B batch, C positions of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from hypergen.errors import InputError

CHUNK, BATCH_SIZE = 1024, 8
LOWEST, HIGHEST = 1e-3, 1e3  # temperatures between which one is looked for
MOST_STEPS = 60


def matching_temperature(model: Any, tokens: Tensor, entropy: float, tolerance: float = 5e-4) -> float:
    """The temperature at which the mean entropy of the predictions within `tokens` (N, T) is `entropy` (nats).

    Entropy rises with T, by Var(logits / T) for each unit of ln T: Newton steps, and bisection where one would leave
    the bracket. The hidden states (N, T - 1, D) are computed once and kept on the CPU.

    Raises:
        InputError: no temperature from 0.001 to 1000 gives this entropy.
    """
    hidden = list(_hidden(model, tokens))
    low, high, temperature = LOWEST, HIGHEST, 1.0
    for _ in range(MOST_STEPS):
        found, slope = _entropy_at(model, hidden, temperature)
        if abs(found - entropy) <= tolerance:
            return temperature
        low, high = (temperature, high) if found < entropy else (low, temperature)
        newton = temperature * math.exp(max(-9.0, min(9.0, (entropy - found) / max(slope, 1e-9))))
        temperature = newton if low < newton < high else math.sqrt(low * high)
    raise InputError(f"entropy of {entropy:.3f} nats: no temperature from {LOWEST:g} to {HIGHEST:g} gives it")


def mean_log_probabilities(model: Any, tokens: Tensor) -> Tensor:
    """(V,) float64 on the CPU: the mean log-probability of each id over all predictions within `tokens` (N, T)."""
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for logits in _logits(model, _hidden(model, tokens)):
        total = total + logits.log_softmax(-1).sum(0).double().cpu()
        count += len(logits)
    return total / count


def log_probability_change(trained: Any, base: Any, tokens: Tensor) -> Tensor:
    """(V,): `mean_log_probabilities` of the one model minus those of the other."""
    return mean_log_probabilities(trained, tokens) - mean_log_probabilities(base, tokens)


@final
class Adjusted(nn.Module):
    """A TokenModel that gives the logits of another, divided by a temperature, plus a vector (V,); never trained."""

    def __init__(self, model: Any, temperature: float = 1.0, bias: Tensor | None = None):
        super().__init__()
        self.model, self.temperature = model, temperature
        self.num_tokens, self.context_length = model.num_tokens, model.context_length
        self.takes_padding = model.takes_padding
        self.bias = torch.zeros(()) if bias is None else bias
        self.bias = self.bias.to(next(model.parameters()))

    def hidden(self, tokens: Tensor) -> Tensor:
        return self.model.hidden(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        return self._adjust(self.model.head(hidden))

    def start(self, prompt: Tensor, max_new_tokens: int, *pads: Tensor) -> tuple[Tensor, Any]:
        logits, state = self.model.start(prompt, max_new_tokens, *pads)
        return self._adjust(logits), state

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model.step(token, state)
        return self._adjust(logits), state

    def use_native(self, wanted: bool) -> None:
        self.model.use_native(wanted)

    def select(self, state: Any, rows: Tensor) -> Any:
        return self.model.select(state, rows)

    def _adjust(self, logits: Tensor) -> Tensor:
        return logits / self.temperature + self.bias


def _hidden(model: Any, tokens: Tensor) -> Iterator[Tensor]:
    """(N, T) ids -> (B * (T - 1), D) of each batch, on the CPU, measured in evaluation mode."""
    was_training = model.training
    model.eval()
    for batch in tokens.split(BATCH_SIZE):
        with torch.inference_mode():
            yield model.hidden(batch[:, :-1].to(next(model.parameters()).device)).flatten(0, 1).cpu()
    model.train(was_training)


def _logits(model: Any, hidden: Any) -> Iterator[Tensor]:
    """Hidden states -> fp32 logits (C, V), a chunk at a time."""
    device = next(model.parameters()).device
    for states in hidden:
        for piece in states.split(CHUNK):
            with torch.inference_mode():
                yield model.head(piece.to(device)).float()


def _entropy_at(model: Any, hidden: list[Tensor], temperature: float) -> tuple[float, float]:
    """Mean entropy at this temperature, nats, and its derivative by ln T."""
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
    return entropy / count, slope / count
