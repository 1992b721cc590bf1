"""Block citations in transformers' own `generate`: the citation blocker as a `LogitsProcessor`.

    processor = hypergen.CitationProcessor("runs/text-1", 5)
    model.generate(**prompt, logits_processor=[processor], do_sample=False)

Greedy and beam ids are those of hypergen's own decoding with `block_citations=5`.

Shape letters: N training sequences, B batch, L context, T tokens, V vocabulary.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from hypergen.decoding.ngram_index import CitationIndex
from hypergen.errors import in_keywords
from hypergen.storage.file_names import TRAINING_TOKENS
from hypergen.storage.token_files import stored_loss_mask, stored_tokens


class CitationProcessor(LogitsProcessor):
    """Set logits to -inf where a token would complete an n-gram of the training set."""

    @in_keywords()
    def __init__(
        self,
        training: str | PathLike[str] | Tensor | Any,
        length: int,
        *,
        loss_mask: Tensor | None = None,
        pad_token_id: int | None = None,
    ):
        """Index the n-grams of a training set.

        Args:
            training: a run, its folder, or training tokens (N, T).
            length: of the n-grams, 2 or more (paper: 5).
            loss_mask: of training tokens (N, T), as `Run.loss_mask` gives it; a run brings its own.
            pad_token_id: an id that, at the beginning of a row, is padding, as batches of prompts of several lengths
                have it; no n-gram begins in it.

        Raises:
            InputError: there is no training set, or the length is below 2.
        """
        if not isinstance(training, Tensor):
            folder = Path(getattr(training, "folder", training))
            training, loss_mask = stored_tokens(folder, TRAINING_TOKENS), stored_loss_mask(folder, TRAINING_TOKENS)
        self._index = CitationIndex(training, length, loss_mask)
        self._pad_token_id = pad_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Block: ids so far (B, L) and logits (B, V) -> logits (B, V)."""
        self._index = self._index.to(scores.device)
        return self._index.block(scores, self._without_padding(input_ids, scores.shape[1]))

    def _without_padding(self, ids: Tensor, filler: int) -> Tensor:
        """Replace padding at the beginning of rows (B, L) by an id that no logit has."""
        if self._pad_token_id is None:
            return ids
        return ids.masked_fill((ids == self._pad_token_id).long().cumprod(1).bool(), filler)
