"""Measure sense: the share of a completion's words that a word list knows.

Diversity rewards invented words, and a small hyperfitted model invents some; no corpus has them. A word is a run of
letters with apostrophes inside, in lower case; digits, hyphens and all other characters stand between words. Made for
languages that write spaces between words.

Shape letters: B completions.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from hypergen.runtime.progress import Advance, no_progress

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def known_words(
    completions: Sequence[str], vocabulary: AbstractSet[str], prompts: Sequence[str] | None = None
) -> Tensor:
    """Compute the share of each completion's words that the vocabulary has, (B,); nan where there is no word.

    0 to 1, float64; high is better. Words of the prompt do not count, nor those that a border cuts: a first word that
    the prompt begins, and a last word that touches the end, because a completion is cut after a number of tokens.

    Args:
        completions: without their prompts.
        vocabulary: words as `words_of` gives them.
        prompts: what each completion follows; nothing, by default.
    """
    starts = [""] * len(completions) if prompts is None else prompts
    shares = []
    for prompt, completion in zip(starts, completions, strict=True):
        words = whole_words(prompt, completion)
        shares.append(sum(word in vocabulary for word in words) / len(words) if words else math.nan)
    return torch.tensor(shares, dtype=torch.float64)


def whole_words(prompt: str, completion: str) -> list[str]:
    """List the words that begin in the completion and end before its end, in order."""
    start = _plain(prompt)
    whole = (start + _plain(completion)).rstrip("'")
    return [word.group() for word in WORD.finditer(whole) if word.start() >= len(start) and word.end() < len(whole)]


def words_of(text: str) -> list[str]:
    """List the words of a text, in order: lower case, composed characters (NFC), straight apostrophes."""
    return WORD.findall(_plain(text))


def count_words(texts: Iterable[str], advance: Advance = no_progress) -> Counter[str]:
    """Count the words of a corpus, one text at a time, so that only the different words stay in memory.

    Args:
        texts: read when they are needed.
        advance: told of each text (`progress.track`).
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words_of(text))
        advance()
    return counts


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
