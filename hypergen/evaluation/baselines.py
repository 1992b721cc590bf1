"""Define the baselines of a run: decoding strategies and logit controls applied to the unmodified base.

Each baseline is a model and a way of decoding. The controls that need both models, entropy-matched temperature and
static bias, are computed when first asked for. Rows that need a training of their own (early-stopped, last layers, real
data) are those of `benchmarks/experiment.py`.
Does not know what a token means.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from hypergen.config import CITATION_LENGTH, DecodingConfig, StrategyName
from hypergen.evaluation.calibration import Adjusted, log_probability_change, matching_temperature
from hypergen.evaluation.comparison import ComparedModel, Comparison
from hypergen.evaluation.interpolation import interpolated
from hypergen.evaluation.predictions import prediction_values
from hypergen.modality import TokenModel
from hypergen.report import verdicts
from hypergen.runtime.progress import track

GREEDY = DecodingConfig(stop_at_end=False)
REPETITION_PENALTY = 1.2  # arXiv 1909.05858

BASE_GREEDY, BASE_TOP_P, HYPERFITTED_GREEDY = verdicts.BASE_GREEDY, verdicts.BASE_TOP_P, verdicts.OURS
ENTROPY_MATCHED = "base entropy-matched"
STATIC_BIAS = "base static bias"
ORIGINAL = verdicts.ORIGINAL
SHOWN = (BASE_GREEDY, BASE_TOP_P, HYPERFITTED_GREEDY, ORIGINAL)  # rows that a figure shows side by side


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Describe one row of the table."""

    name: str
    model: str
    """base, entropy_matched, logit_biased or hyperfitted (`Models`), or another that a caller has."""
    decoding: DecodingConfig = GREEDY
    describes: bool = False
    """Whether the row also says how the model predicts the held-out examples."""


def fit_baselines(seed: int) -> tuple[list[Baseline], list[Baseline]]:
    """List the rows that `fit` decodes before its training, the base's greedy one first, and those after it."""
    before = [
        Baseline(name=BASE_GREEDY, model="base", describes=True),
        Baseline(name=BASE_TOP_P, model="base", decoding=_decoding("top-p", seed)),
    ]
    return before, [Baseline(name=HYPERFITTED_GREEDY, model="hyperfitted", describes=True)]


def baselines(seed: int) -> list[Baseline]:
    """List every row that a base and a run allow without further training, those of `fit_baselines` among them."""
    before, after = fit_baselines(seed)
    penalized = DecodingConfig(repetition_penalty=REPETITION_PENALTY, stop_at_end=False)
    blocked = DecodingConfig(block_citations=CITATION_LENGTH, stop_at_end=False)
    matched = _decoding("temperature", seed)
    return [
        *before,
        Baseline(name="base min-p", model="base", decoding=_decoding("min-p", seed)),
        Baseline(name="base repetition penalty", model="base", decoding=penalized),
        Baseline(name="base fsd", model="base", decoding=_decoding("fsd", seed)),
        Baseline(name="base beam", model="base", decoding=_decoding("beam", seed)),
        Baseline(name=ENTROPY_MATCHED, model="entropy_matched", decoding=matched, describes=True),
        Baseline(name=STATIC_BIAS, model="logit_biased", describes=True),
        *after,
        Baseline(name="hyperfitted greedy, no citation", model="hyperfitted", decoding=blocked),
        Baseline(name="hyperfitted top-p", model="hyperfitted", decoding=_decoding("top-p", seed)),
    ]


def _decoding(strategy: StrategyName, seed: int) -> DecodingConfig:
    return DecodingConfig(strategy=strategy, stop_at_end=False, seed=seed)


class ModelsByName(Protocol):
    """Gives a model by the name that a `Baseline` has for it."""

    def __getitem__(self, name: str, /) -> ComparedModel: ...


class Models:
    """Hold base and hyperfitted model, and make the controls between them when first asked for."""

    def __init__(self, base: TokenModel, hyperfitted: TokenModel, held_out: Tensor, loss_mask: Tensor | None = None):
        """Keep both models and the held-out sequences (N, T), with their mask, on which the controls are calibrated."""
        self.base, self.hyperfitted, self.held_out, self.loss_mask = base, hyperfitted, held_out, loss_mask

    @cached_property
    def entropy_matched(self) -> Adjusted:
        """Base at the temperature where its mean entropy on held-out sequences equals the hyperfitted model's."""
        with track(f"{ENTROPY_MATCHED}: entropy of the run", len(self.held_out), transient=True) as advance:
            values = prediction_values(self.hyperfitted, self.held_out, loss_mask=self.loss_mask, advance=advance)
        entropy, label = values["entropy"].mean().item(), f"{ENTROPY_MATCHED}: match"
        temperature = matching_temperature(self.base, self.held_out, entropy, label=label, loss_mask=self.loss_mask)
        return Adjusted(self.base, temperature=temperature)

    @cached_property
    def logit_biased(self) -> Adjusted:
        """Base plus the mean change that hyperfitting brings to its log-probabilities on held-out sequences.

        It is estimated where it is then measured, which is the most that one vector can do.
        """
        label = f"{STATIC_BIAS}: calibrate"
        change = log_probability_change(
            self.hyperfitted, self.base, self.held_out, label=label, loss_mask=self.loss_mask
        )
        return Adjusted(self.base, bias=change)

    def __getitem__(self, name: str) -> ComparedModel:
        """Look a model up by name."""
        model: ComparedModel = getattr(self, name)
        return model


def add_row(compare: Comparison, baseline: Baseline, models: ModelsByName) -> dict[str, Tensor]:
    """Decode and measure one row with its model, and remark on a matched temperature."""
    model = models[baseline.model]
    if baseline.model == "entropy_matched" and isinstance(model, Adjusted):
        compare.remarks[baseline.name] = f"temperature {model.temperature:.4f}"
    return compare.add(baseline.name, baseline.decoding, model=model, describe_model=baseline.describes)


def interpolation_rows(alphas: Sequence[float]) -> dict[float, str]:
    """Name the greedy rows on the way from the base (0) to the run (1), by alpha."""
    between = {alpha: f"interpolated {alpha:g} greedy" for alpha in alphas}
    return {0.0: BASE_GREEDY, **between, 1.0: HYPERFITTED_GREEDY}


def add_interpolated(compare: Comparison, alpha: float, models: Models) -> dict[str, Tensor]:
    """Decode and measure, greedily, the model of weights (1 - alpha) * base + alpha * run."""
    compare.remarks["interpolated"] = "weights (1 - a) * base + a * run, with the number a in the row's name"
    model = interpolated(models.base, models.hyperfitted, alpha)
    return compare.add(interpolation_rows([alpha])[alpha], GREEDY, model=model, describe_model=True)
