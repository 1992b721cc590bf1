"""Choose the next token: the table of strategies, and the step that they share in the decoding loop.

A strategy samples from a filtered distribution (`sampling`), follows a rule of its own (`fsd`) or searches over several
tokens (`beam_search`); greedy is none of these, an argmax before any division by a temperature. A new one is an entry
here, a name in `config` and, for a rule or a search, a file beside this one. Sampling draws from a CPU generator seeded
by (seed, row of the whole job), so a completion depends neither on the batch it sat in nor on the device.
Does not know what a token means.

Shape letters: B batch, P prompt, S completion, L context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from torch import Tensor

from hypergen.config import DecodingConfig, StrategyName
from hypergen.decoding import fsd
from hypergen.decoding.beam_search import decode_beams
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.decoding.sampling import Filters, penalize_repetition, sample_tokens
from hypergen.kernels.topk import argmax
from hypergen.modality import Decoder
from hypergen.runtime.seeding import seeded_generator

Rule = Callable[[Tensor, Tensor], Tensor]  # logits (B, V) and the ids so far (B, L) -> the next ids (B,)


class Search(Protocol):
    """Decodes a whole batch, looking at several tokens together."""

    def __call__(
        self,
        decoder: Decoder,
        prompts: Tensor,
        max_new_tokens: int,
        *,
        config: DecodingConfig,
        score: Callable[[Tensor, Tensor], Tensor],
        end_tokens: Sequence[int],
        check_stop: Callable[[], None],
    ) -> Tensor:
        """Decode prompts (B, P) of one length: -> (B, S), filled up with the first end token.

        Args:
            decoder: runs the model.
            prompts: ids.
            max_new_tokens: the longest completion.
            config: the numbers that the user set.
            score: logits (B, V) and the ids so far (B, L) -> log-probabilities, -inf where a token is not allowed.
            end_tokens: each ends a completion.
            check_stop: called before each step; raises where decoding is to end.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Describe a strategy by how it departs from greedy decoding."""

    filters: Filters | None = None
    """Of a sampling strategy, unless the user says otherwise; None: it does not sample."""
    rule: Callable[[DecodingConfig], Rule] | None = None
    """Makes the rule that chooses among the tokens that are allowed."""
    search: Search | None = None
    """Takes the place of decoding token by token."""
    allows_padding: bool = True
    """Off where tokens of the context are counted or rows are repeated: padding would be among them."""


STRATEGIES: Mapping[StrategyName, Strategy] = {
    "greedy": Strategy(),
    "temperature": Strategy(filters=Filters()),
    "top-k": Strategy(filters=Filters(top_k=50)),
    "top-p": Strategy(filters=Filters(temperature=0.7, top_k=50, top_p=0.9)),  # the baseline of arXiv 2412.04318
    "min-p": Strategy(filters=Filters(min_p=0.1)),  # arXiv 2407.01082
    "fsd": Strategy(rule=fsd.new_rule, allows_padding=False),
    "beam": Strategy(search=decode_beams, allows_padding=False),
}


def filters(config: DecodingConfig) -> Filters | None:
    """Return the strategy's filters with the fields that the user set; None for one that does not sample."""
    preset = STRATEGIES[config.strategy].filters
    if preset is None:
        return None
    chosen = {field.name: getattr(config, field.name) for field in fields(preset)}
    return replace(preset, **{name: value for name, value in chosen.items() if value is not None})


class TokenSelector:
    """Select the next token of each row: logits (B, V) and the ids so far (B, L) -> ids (B,)."""

    def __init__(self, config: DecodingConfig, citations: CitationIndex | None, rows: list[int]):
        """Prepare the selection for a batch.

        Args:
            config: the strategy and its numbers.
            citations: n-grams that must not be completed; None: all may be.
            rows: numbers of the batch's rows in the whole job, for their seeds.
        """
        rule = STRATEGIES[config.strategy].rule
        self.rule = None if rule is None else rule(config)
        self.filters, self.penalty, self.citations = filters(config), config.repetition_penalty, citations
        self.native = config.native
        self.generators = [seeded_generator(config.seed, "row", row) for row in rows]

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows (B',) of the batch."""
        self.generators = [self.generators[row] for row in rows.tolist()]

    def __call__(self, logits: Tensor, context: Tensor) -> Tensor:
        """Select: logits (B, V) and the ids so far (B, L) -> ids (B,)."""
        logits = self._penalize(logits, context)
        if self.rule is not None:
            return self.rule(self._block(logits, context), context)
        if self.filters is not None:
            return sample_tokens(self._block(logits, context), self.filters, self.generators, native=self.native)
        if self.citations is not None:
            return self.citations.argmax_allowed(logits, context)
        return argmax(logits)

    def log_probabilities(self, logits: Tensor, context: Tensor) -> Tensor:
        """Compute log-probabilities (B, V), for a search over several tokens; -inf where one would be a citation.

        A repetition penalty is on them, not on the logits, so sums over tokens are those of `transformers.generate`.
        """
        return self._block(self._penalize(logits.float().log_softmax(-1), context), context)

    def _penalize(self, logits: Tensor, context: Tensor) -> Tensor:
        return logits if self.penalty == 1.0 else penalize_repetition(logits, context, self.penalty)

    def _block(self, logits: Tensor, context: Tensor) -> Tensor:
        return logits if self.citations is None else self.citations.block(logits, context)
