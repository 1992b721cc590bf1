"""Show one example before and after in words, with what a completion repeats marked: for a terminal.

Shape letters: P prompt, S completion.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

from torch import Tensor

from hypergen.evaluation.diversity import repeated_tokens
from hypergen.modality import Modality

Stretch = tuple[str, bool]  # of a text, and whether it repeats what the text said before


def example_of(modality: Modality, prompt: Tensor, before: Tensor, after: Tensor) -> dict[str, Any] | None:
    """Render a prompt (P,) and its completions (S,) before and after; None where items have no text.

    Returns:
        JSON values: `prompt`, a text, and `before` and `after`, lists of `Stretch`.
    """
    if _text(modality, prompt, before) is None:
        return None
    (start,) = modality.decode(prompt[None])
    return {
        "prompt": modality.as_text(start),
        "before": list(map(list, stretches(modality, prompt, before))),
        "after": list(map(list, stretches(modality, prompt, after))),
    }


def stretches(modality: Modality, prompt: Tensor, completion: Tensor) -> list[Stretch]:
    """Split the text of a completion (S,) where its tokens begin or cease to repeat 4-grams of it (rep-4)."""
    marks = repeated_tokens(completion).tolist()
    lengths = [len(list(group)) for _, group in groupby(marks)]
    ends = [sum(lengths[:count]) for count in range(len(lengths) + 1)]
    texts = [_text(modality, prompt, completion[:end]) or "" for end in ends]
    places = [len(text) for text in texts]
    pieces = [
        (texts[-1][begin:end], bool(marks[first])) for (begin, end), first in zip(pairwise(places), ends, strict=False)
    ]
    return [(text, is_repeated) for text, is_repeated in pieces if text]


def _text(modality: Modality, prompt: Tensor, completion: Tensor) -> str | None:
    (item,) = modality.render(prompts=[prompt], completions=completion[None])
    return modality.as_text(item)
