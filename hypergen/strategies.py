"""How the next id is chosen: the named strategies, and what each does at a step of the decoding loop.
Beam search looks at several tokens together and is in `beam`.

Greedy is its own branch, an argmax before any division by a temperature. Sampling draws from a CPU generator seeded by
(seed, row of the whole job), so a completion depends neither on the batch it sat in nor on the device.
Does not know: models, prompts, what a token means.

Shape letters: B batch, L context, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from hypergen import fsd
from hypergen.batches import generator
from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig, StrategyName
from hypergen.sampling import Filters, argmax, draw, penalize_repetition

STRATEGIES: dict[StrategyName, Filters | None] = {
    # What a strategy draws from; greedy, fsd and beam draw nothing.
    "greedy": None,
    "temperature": Filters(),
    "top-k": Filters(top_k=50),
    "top-p": Filters(temperature=0.7, top_k=50, top_p=0.9),  # the nucleus baseline of arXiv 2412.04318
    "min-p": Filters(min_p=0.1),  # arXiv 2407.01082
}
NUM_BEAMS = 4


def filters(config: DecodingConfig) -> Filters | None:
    """The strategy's filters with the fields that the user set; None for one that draws nothing."""
    preset = STRATEGIES.get(config.strategy)
    if preset is None:
        return None
    chosen = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    return replace(preset, **{name: value for name, value in chosen.items() if value is not None})


def fsd_numbers(config: DecodingConfig) -> fsd.Fsd | None:
    """The numbers of fsd with the fields that the user set; None for any other strategy."""
    if config.strategy != "fsd":
        return None
    chosen: dict[str, Any] = {"alpha": config.fsd_alpha, "top_k": config.top_k}
    return fsd.Fsd(**{name: value for name, value in chosen.items() if value is not None})


class Chooser:
    """logits (B, V) and the ids so far (B, L) -> the next id of each row (B,)."""

    def __init__(self, config: DecodingConfig, citations: CitationIndex | None, rows: list[int]):
        self.filters, self.penalty, self.citations = filters(config), config.repetition_penalty, citations
        self.native = config.native
        self.fsd, self.num_beams = fsd_numbers(config), config.num_beams or NUM_BEAMS
        self.generators = [generator(config.seed, "row", row) for row in rows]

    def keep(self, rows: Tensor) -> None:
        self.generators = [self.generators[row] for row in rows.tolist()]

    def __call__(self, logits: Tensor, context: Tensor) -> Tensor:
        logits = self._penalized(logits, context)
        if self.fsd is not None:
            return fsd.choose(self._allowed(logits, context), context, self.fsd)
        if self.filters is not None:
            return draw(self._allowed(logits, context), self.filters, self.generators, self.native)
        if self.citations is not None:
            return self.citations.argmax_allowed(logits, context)
        return argmax(logits)

    def log_probabilities(self, logits: Tensor, context: Tensor) -> Tensor:
        """(B, V), for a search over several tokens; -inf where a token would be a citation."""
        return self._allowed(self._penalized(logits, context).float().log_softmax(-1), context)

    def _penalized(self, logits: Tensor, context: Tensor) -> Tensor:
        return logits if self.penalty == 1.0 else penalize_repetition(logits, context, self.penalty)

    def _allowed(self, logits: Tensor, context: Tensor) -> Tensor:
        return logits if self.citations is None else self.citations.block(logits, context)
