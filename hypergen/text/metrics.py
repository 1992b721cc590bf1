"""Compute metrics that need the texts themselves: BLEU among completions and against the training set, and MAUVE.

BLEU is sacrebleu's (its tokenizer, smoothing and formula); only the clipped counts are gathered here, once for a whole
pool of references, because sacrebleu counts all references anew for every text. Both libraries are optional.

Shape letters: B completions, N training sequences, M originals, T tokens, P prompt, S completion, D width.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from hypergen.modality import Predictor
from hypergen.runtime import dependencies
from hypergen.runtime.evaluation_mode import evaluating
from hypergen.runtime.progress import Advance, track

SACREBLEU, MAUVE = "sacrebleu>=2.5", "mauve-text>=0.4"  # what to install
MAX_ORDER = 4  # BLEU counts n-grams of 1 to 4 words
MAUVE_BATCH = 8  # sequences
Ngram = tuple[str, ...]


class NgramCounts(NamedTuple):
    """Hold the numbers of a text that BLEU needs."""

    ngrams: Counter[Ngram]  # how often each n-gram of 1 to 4 words occurs
    length: int  # words


def self_bleu_values(texts: Sequence[str]) -> Tensor:
    """Compute BLEU of each text with all others as references, (B,); nan where there is no word or no other.

    0 to 100; high where the texts resemble each other. Equal to `sentence_score` of sacrebleu under the settings in
    `self_bleu_signature`. Source: Zhu et al., arXiv 1802.01886; arXiv 2412.04318, Table 2.

    Raises:
        InputError: sacrebleu is not installed.
    """
    bleu = _sacrebleu()
    counts = [_count(bleu, text) for text in texts]
    highest = _two_highest(counts)
    lengths = [text.length for text in counts]
    scores = []
    for place, text in enumerate(counts):
        # The highest count in any other text: the second highest of all where this text itself has the highest.
        others = {ngram: highest[ngram][own == highest[ngram][0]] for ngram, own in text.ngrams.items()}
        scores.append(_score(bleu, text, others, lengths[:place] + lengths[place + 1 :]))
    return torch.tensor(scores, dtype=torch.float64)


def self_bleu_signature(num_texts: int) -> str:
    """Describe `self_bleu_values` of `num_texts` texts in sacrebleu's form; `pool` counts the texts."""
    return f"self:excluded|pool:{num_texts}|{_signature(num_texts - 1)}"


@final
class References:
    """Hold a pool of reference texts, counted once."""

    def __init__(self, texts: Sequence[str]):
        """Count the n-grams of the texts.

        Raises:
            InputError: sacrebleu is not installed.
        """
        self._bleu = _sacrebleu()
        self._highest: dict[Ngram, int] = {}
        self._lengths: list[int] = []
        with track("dataset BLEU: count the training texts", len(texts), transient=True) as advance:
            for one in texts:
                text = _count(self._bleu, one)
                self._lengths.append(text.length)
                for ngram, count in text.ngrams.items():
                    self._highest[ngram] = max(count, self._highest.get(ngram, 0))
                advance()

    def bleu_values(self, texts: Sequence[str]) -> Tensor:
        """Compute BLEU of each text with the whole pool as references, (B,); nan where there is no word.

        0 to 100; high where the texts quote the pool ("dataset BLEU"). Equal to `sentence_score` of sacrebleu under the
        settings in `signature`. Source: arXiv 2412.04318, Table 2.
        """
        counts = [_count(self._bleu, text) for text in texts]
        scores = [_score(self._bleu, text, self._highest, self._lengths) for text in counts]
        return torch.tensor(scores, dtype=torch.float64)

    def signature(self) -> str:
        """Describe `bleu_values` in sacrebleu's form; `pool` and `nrefs` count the references."""
        return f"pool:{len(self._lengths)}|{_signature(len(self._lengths))}"


def mauve(model: Predictor, originals: Tensor, generated: Tensor, seed: int = 0) -> float:
    """Compute MAUVE of generated against original sequences, prompts included, both cut to the shorter length.

    Above 0 to 1; high where the two sets are distributed alike. Features are the hidden states of `model` after the
    last token, grouped into a tenth as many clusters as there are sequences; scale factor 5. The published scores use
    GPT-2 large and thousands of texts: numbers under another model, length or count do not compare.
    Source: Pillutla et al., arXiv 2102.01454.

    Args:
        model: the same for everything that is compared.
        originals: (M, T') ids without padding.
        generated: (B, T) ids without padding.
        seed: of the clustering.

    Raises:
        InputError: mauve-text is not installed.
    """
    compute_mauve = dependencies.load_optional("mauve", MAUVE, "MAUVE").compute_mauve
    length = min(originals.shape[1], generated.shape[1])
    with track("MAUVE: features", len(originals) + len(generated), transient=True) as advance:
        features = [_last_hidden(model, tokens[:, :length], advance) for tokens in (originals, generated)]
    return float(compute_mauve(p_features=features[0], q_features=features[1], seed=seed, verbose=False).mauve)


@final
class TextReferenceMetrics:
    """Compare completions with the training texts, the originals and each other; see `modality.ReferenceMetrics`.

    MAUVE's features come from a copy of the model as it is now, so that hyperfitting it does not change the metric.
    The originals have none: beside themselves it is 1, whatever they are.
    """

    def __init__(
        self,
        model: Predictor,
        decode: Callable[[Tensor], list[str]],
        training: Tensor,
        originals: Tensor,
        *,
        known_words: str,
    ) -> None:
        """Count the training texts, and copy the model.

        Args:
            model: gives MAUVE's features.
            decode: ids (N, T) -> texts.
            training: (N, T) tokens.
            originals: (M, T) tokens.
            known_words: what to say of that metric, which needs none of this and is computed by the modality.
        """
        self._decode, self._originals, self._known_words = decode, originals, known_words
        self._references = References(decode(training)) if dependencies.is_installed("sacrebleu") else None
        self._model = copy.deepcopy(model) if dependencies.is_installed("mauve") else None

    def compute(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute: prompts (B, P), completions (B, S) -> `self_bleu` and `dataset_bleu` (B,), `mauve` ()."""
        values: dict[str, Tensor] = {}
        if self._references is not None:
            texts = self._decode(completions)
            values["self_bleu"] = self_bleu_values(texts)
            values["dataset_bleu"] = self._references.bleu_values(texts)
        generated = torch.cat([prompts, completions], 1)
        if self._model is not None and not generated.equal(self._originals[:, : generated.shape[1]]):
            values["mauve"] = torch.tensor(mauve(self._model, self._originals, generated), dtype=torch.float64)
        return values

    def describe(self, num_completions: int) -> dict[str, str]:
        """Say by name how each metric of `num_completions` completions is computed, or why it is not."""
        return {
            "known_words": self._known_words,
            **self._describe_bleu(num_completions),
            "mauve": self._describe_mauve(num_completions),
        }

    def _describe_bleu(self, num_completions: int) -> dict[str, str]:
        if self._references is None:
            reason = f"not measured: {dependencies.how_to_install('sacrebleu', SACREBLEU)}"
            return {"self_bleu": reason, "dataset_bleu": reason}
        return {"self_bleu": self_bleu_signature(num_completions), "dataset_bleu": self._references.signature()}

    def _describe_mauve(self, num_completions: int) -> str:
        if self._model is None:
            return f"not measured: {dependencies.how_to_install('mauve', MAUVE)}"
        clusters = max(2, round(min(num_completions, len(self._originals)) / 10))
        sizes = f"{num_completions} against {len(self._originals)} texts cut to one length"
        return f"{sizes}, {clusters} clusters of the base's last hidden state, scale 5"


def _sacrebleu() -> Any:
    """Make sacrebleu's BLEU for single sentences: 4 orders, tokenizer 13a, exponential smoothing."""
    metrics = dependencies.load_optional("sacrebleu.metrics", SACREBLEU, "BLEU")
    return metrics.BLEU(effective_order=True, max_ngram_order=MAX_ORDER)


def _signature(num_references: int) -> str:
    bleu = _sacrebleu()
    bleu.num_refs = num_references
    return bleu.get_signature().format()


def _count(bleu: Any, text: str) -> NgramCounts:
    words = bleu.tokenizer(text.rstrip()).split()
    return NgramCounts(Counter(_ngrams(words)), len(words))


def _ngrams(words: list[str]) -> list[Ngram]:
    return [tuple(words[first : first + n]) for n in range(1, MAX_ORDER + 1) for first in range(len(words) - n + 1)]


def _two_highest(counts: Sequence[NgramCounts]) -> dict[Ngram, tuple[int, int]]:
    """Find each n-gram's highest count in any text, and the next one, 0 where no other text has it."""
    highest: dict[Ngram, tuple[int, int]] = {}
    for text in counts:
        for ngram, count in text.ngrams.items():
            first, second = highest.get(ngram, (0, 0))
            highest[ngram] = (max(first, count), max(second, min(first, count)))
    return highest


def _score(bleu: Any, text: NgramCounts, limits: dict[Ngram, int], lengths: Sequence[int]) -> float:
    """Apply sacrebleu's formula to the counts of a text, each clipped to its highest count in the references.

    Args:
        bleu: sacrebleu's metric, which has the settings.
        text: the counts.
        limits: the highest count of each n-gram in any reference.
        lengths: of the references, in words.
    """
    if not text.length or not lengths:
        return math.nan
    matched, total = [0] * MAX_ORDER, [max(0, text.length - n) for n in range(MAX_ORDER)]
    for ngram, count in text.ngrams.items():
        matched[len(ngram) - 1] += min(count, limits.get(ngram, 0))
    nearest = min(set(lengths), key=lambda length: (abs(length - text.length), length))
    settings = bleu.smooth_method, bleu.smooth_value, bleu.effective_order, bleu.max_ngram_order
    return bleu.compute_bleu(matched, total, text.length, nearest, *settings).score


@torch.no_grad()
def _last_hidden(model: Predictor, tokens: Tensor, advance: Advance) -> np.ndarray:
    """Compute the hidden state after the last token: (B, T) -> (B, D)."""
    device, states = next(model.parameters()).device, []
    with evaluating(model):
        for batch in tokens.split(MAUVE_BATCH):
            states.append(model.hidden(batch.to(device))[:, -1].float().cpu())
            advance(len(batch))
    return torch.cat(states).numpy()
