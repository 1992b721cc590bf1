"""Numbers that need the texts themselves: BLEU among completions and against the training set, and MAUVE.

BLEU is sacrebleu's (its tokenizer, smoothing and formula); only the clipped counts are gathered here, once for a whole
pool of references, because sacrebleu counts all references anew for every text. Both libraries are optional.
Does not know: how texts were generated, tokens (MAUVE excepted), tables.

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
from torch import Tensor, nn

from hypergen import extras

ORDERS = 4  # BLEU counts runs of 1 to 4 words
MAUVE_BATCH = 8  # sequences
Gram = tuple[str, ...]


class Counts(NamedTuple):
    """What BLEU needs of a text."""

    grams: Counter[Gram]  # how often each run of 1 to 4 words occurs
    length: int  # words


def self_bleu_values(texts: Sequence[str]) -> Tensor:
    """BLEU of each text with all others, itself excluded, as references, (B,); nan where there is no word or no other.

    0 to 100; high where the texts resemble each other. Equal to `sentence_score` of sacrebleu as `self_bleu_signature`
    says. Source: Zhu et al., arXiv 1802.01886; arXiv 2412.04318, Table 2.

    Raises:
        InputError: sacrebleu is not installed.
    """
    bleu = _sacrebleu()
    counts = _count(bleu, texts)
    highest = _two_highest(counts)
    lengths = [one.length for one in counts]
    scores = []
    for place, one in enumerate(counts):
        others = {gram: highest[gram][own == highest[gram][0]] for gram, own in one.grams.items()}
        scores.append(_score(bleu, one, others, lengths[:place] + lengths[place + 1 :]))
    return torch.tensor(scores, dtype=torch.float64)


def self_bleu_signature(num_texts: int) -> str:
    """How `self_bleu_values` of so many texts are computed, in sacrebleu's own form; `pool` counts the texts."""
    return f"self:excluded|pool:{num_texts}|{_signature(num_texts - 1)}"


@final
class References:
    """A pool of reference texts, counted once."""

    def __init__(self, texts: Sequence[str]):
        """Raises InputError where sacrebleu is not installed."""
        self._bleu = _sacrebleu()
        self._highest: dict[Gram, int] = {}
        self._lengths: list[int] = []
        for one in _count(self._bleu, texts):
            self._lengths.append(one.length)
            for gram, count in one.grams.items():
                self._highest[gram] = max(count, self._highest.get(gram, 0))

    def bleu_values(self, texts: Sequence[str]) -> Tensor:
        """BLEU of each text with the whole pool as references ("dataset BLEU"), (B,); nan where there is no word.

        0 to 100; high where the texts quote the pool. Equal to `sentence_score` of sacrebleu as `signature` says.
        Source: arXiv 2412.04318, Table 2.
        """
        counts = _count(self._bleu, texts)
        scores = [_score(self._bleu, one, self._highest, self._lengths) for one in counts]
        return torch.tensor(scores, dtype=torch.float64)

    def signature(self) -> str:
        """How `bleu_values` are computed, in sacrebleu's own form; `pool` and `nrefs` count the references."""
        return f"pool:{len(self._lengths)}|{_signature(len(self._lengths))}"


def mauve(model: Any, originals: Tensor, generated: Tensor, seed: int = 0) -> float:
    """MAUVE of generated sequences (B, T) against original ones (M, T'), prompts included, both cut to the shorter T.

    Above 0 to 1; high where the two sets are distributed alike. Features are the hidden states of `model` after the
    last token, grouped into a tenth as many clusters as there are sequences; scale factor 5. The published scores use
    GPT-2 large and thousands of texts: numbers under another model, length or count do not compare.
    Source: Pillutla et al., arXiv 2102.01454.

    Args:
        model: a TokenModel that is an nn.Module, the same for everything that is compared.
        originals, generated: ids without padding.

    Raises:
        InputError: mauve-text is not installed.
    """
    compute = extras.load("mauve", "MAUVE").compute_mauve
    length = min(originals.shape[1], generated.shape[1])
    features = [_last_hidden(model, tokens[:, :length]) for tokens in (originals, generated)]
    return float(compute(p_features=features[0], q_features=features[1], seed=seed, verbose=False).mauve)


@final
class TextYardstick:
    """Completions against the training texts, against the originals and against each other; see `modality.Yardstick`.

    MAUVE's features come from a copy of the model as it is now, so that hyperfitting it does not change the measure.
    The originals have none: beside themselves it is 1, whatever they are.
    """

    def __init__(
        self, model: nn.Module, decode: Callable[[Tensor], list[str]], training: Tensor, originals: Tensor
    ) -> None:
        self._decode, self._originals = decode, originals
        self._references = References(decode(training)) if extras.is_installed("sacrebleu") else None
        self._features = copy.deepcopy(model) if extras.is_installed("mauve") else None

    def measure(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Prompts (B, P), completions (B, S) -> `self_bleu` and `dataset_bleu` (B,), `mauve` ()."""
        values: dict[str, Tensor] = {}
        if self._references is not None:
            texts = self._decode(completions)
            values |= {
                "self_bleu": self_bleu_values(texts),
                "dataset_bleu": self._references.bleu_values(texts),
            }
        generated = torch.cat([prompts, completions], 1)
        if self._features is not None and not generated.equal(self._originals[:, : generated.shape[1]]):
            values["mauve"] = torch.tensor(mauve(self._features, self._originals, generated), dtype=torch.float64)
        return values

    def notes(self, num_completions: int) -> dict[str, str]:
        """Name -> how that measure of so many completions is computed, or why it is not."""
        bleu, similarity = (f"not measured: {extras.how_to_install(module)}" for module in ("sacrebleu", "mauve"))
        if self._features is not None:
            clusters = max(2, round(min(num_completions, len(self._originals)) / 10))
            sizes = f"{num_completions} against {len(self._originals)} texts cut to one length"
            similarity = f"{sizes}, {clusters} clusters of the base's last hidden state, scale 5"
        if self._references is None:
            return {"self_bleu": bleu, "dataset_bleu": bleu, "mauve": similarity}
        return {
            "self_bleu": self_bleu_signature(num_completions),
            "dataset_bleu": self._references.signature(),
            "mauve": similarity,
        }


def _sacrebleu() -> Any:
    """sacrebleu's BLEU for single sentences: 4 orders, tokenizer 13a, exponential smoothing."""
    return extras.load("sacrebleu.metrics", "BLEU").BLEU(effective_order=True, max_ngram_order=ORDERS)


def _signature(num_references: int) -> str:
    bleu = _sacrebleu()
    bleu.num_refs = num_references
    return bleu.get_signature().format()


def _count(bleu: Any, texts: Sequence[str]) -> list[Counts]:
    words = [bleu.tokenizer(text.rstrip()).split() for text in texts]
    return [Counts(Counter(_grams(row)), len(row)) for row in words]


def _grams(words: list[str]) -> list[Gram]:
    return [tuple(words[first : first + n]) for n in range(1, ORDERS + 1) for first in range(len(words) - n + 1)]


def _two_highest(counts: Sequence[Counts]) -> dict[Gram, tuple[int, int]]:
    """Each run's highest count in any text, and the next one, 0 where no other text has it."""
    highest: dict[Gram, tuple[int, int]] = {}
    for one in counts:
        for gram, count in one.grams.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (max(first, count), max(second, min(first, count)))
    return highest


def _score(bleu: Any, one: Counts, limits: dict[Gram, int], lengths: Sequence[int]) -> float:
    """sacrebleu's formula on the counts of a text, each clipped to its highest count in the references."""
    if not one.length or not lengths:
        return math.nan
    matched, total = [0] * ORDERS, [max(0, one.length - n) for n in range(ORDERS)]
    for gram, count in one.grams.items():
        matched[len(gram) - 1] += min(count, limits.get(gram, 0))
    nearest = min(set(lengths), key=lambda length: (abs(length - one.length), length))
    settings = bleu.smooth_method, bleu.smooth_value, bleu.effective_order, bleu.max_ngram_order
    return bleu.compute_bleu(matched, total, one.length, nearest, *settings).score


@torch.no_grad()
def _last_hidden(model: Any, tokens: Tensor) -> np.ndarray:
    """(B, T) -> (B, D), the hidden state after the last token."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    states = [model.hidden(batch.to(device))[:, -1].float().cpu() for batch in tokens.split(MAUVE_BATCH)]
    model.train(was_training)
    return torch.cat(states).numpy()
