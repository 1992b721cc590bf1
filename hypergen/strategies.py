"""How the next id is chosen: the named strategies, and what each does at a step of the decoding loop.

Greedy is its own branch, an argmax before any division by a temperature. Sampling draws from a CPU generator seeded by
(seed, row of the whole job), so a completion depends neither on the batch it sat in nor on the device.
Does not know: models, prompts, what a token means.

Shape letters: B batch, L context, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hypergen.batches import generator
from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig, StrategyName
from hypergen.sampling import Filters, apply_filters, penalize_repetition, sample

STRATEGIES: dict[StrategyName, Filters | None] = {
    "greedy": None,
    "temperature": Filters(),
    "top-k": Filters(top_k=50),
    "top-p": Filters(temperature=0.7, top_k=50, top_p=0.9),  # the nucleus baseline of arXiv 2412.04318
    "min-p": Filters(min_p=0.1),  # arXiv 2407.01082
}


def filters(config: DecodingConfig) -> Filters | None:
    """The strategy's filters with the fields that the user set; None for greedy."""
    preset = STRATEGIES[config.strategy]
    if preset is None:
        return None
    chosen = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    return replace(preset, **{name: value for name, value in chosen.items() if value is not None})


class Chooser:
    """logits (B, V) and the ids so far (B, L) -> the next id of each row (B,)."""

    def __init__(self, config: DecodingConfig, citations: CitationIndex | None, rows: list[int]):
        self.filters, self.penalty, self.citations = filters(config), config.repetition_penalty, citations
        self.generators = [generator(config.seed, "row", row) for row in rows]

    def keep(self, rows: Tensor) -> None:
        self.generators = [self.generators[row] for row in rows.tolist()]

    def __call__(self, logits: Tensor, context: Tensor) -> Tensor:
        if self.penalty != 1.0:
            logits = penalize_repetition(logits, context, self.penalty)
        if self.filters is None:
            if self.citations is not None:
                return self.citations.argmax_allowed(logits, context)
            return logits.argmax(-1)
        if self.citations is not None:
            logits = self.citations.block(logits, context)
        return sample(apply_filters(logits.float(), self.filters), self.generators)
