"""Measure how a completion reads to another model: its loss under a judge, in nats per character.

A model that was hyperfitted finds its own text likely, so another one has to say whether it reads like text. Its
tokenizer may differ, so texts are encoded anew, and characters make the numbers of all runs comparable. Low is not
better: loops are the easiest text of all, and the originals show where human text lies.

Shape letters: B completions, T tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from hypergen.evaluation.predictions import per_position, sharpness
from hypergen.modality import Modality
from hypergen.runtime.progress import track


def loss_under(judge: Modality, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
    """Compute the loss of each completion given its prompt under `judge`, (B,) in nats per character.

    Prompt and completion are encoded as one text. Its tokens count from the first one on in which it differs from the
    prompt encoded alone, so a token across the border counts whole; their losses are summed and divided by the
    characters of the completion.

    Args:
        judge: the other model, with its tokenizer.
        prompts: texts, possibly empty.
        completions: what follows each of them, spaces included.

    Returns:
        0 or more, float64; nan where a completion is empty.

    Raises:
        InputError: a prompt with its completion fills the judge's context, or is no text.
    """
    pairs = enumerate(zip(prompts, completions, strict=True), 1)
    encoded = [_encode(judge, prompt, completion, number) for number, (prompt, completion) in pairs]
    places_by_length: dict[int, list[int]] = defaultdict(list)  # together without padding, which a judge might see
    for place, (tokens, first) in enumerate(encoded):
        if first < len(tokens):
            places_by_length[len(tokens)].append(place)
    losses = torch.full((len(encoded),), math.nan, dtype=torch.float64)
    total = sum(map(len, places_by_length.values()))
    with track("loss under another model", total, transient=True) as advance:
        for places in places_by_length.values():
            batch = torch.stack([encoded[place][0] for place in places])
            nats = per_position(judge.model, batch, sharpness, advance=advance)["loss"].double()  # of tokens 1 to T - 1
            for place, row in zip(places, nats, strict=True):
                losses[place] = row[encoded[place][1] - 1 :].sum() / len(completions[place])
    return losses


def _encode(judge: Modality, prompt: str, completion: str, number: int) -> tuple[Tensor, int]:
    """Encode a pair as one text: -> ids (T,), start token included, and the place of the completion's first token."""
    start, whole = (judge.encode_prompt(text, number) for text in (prompt, prompt + completion))
    length = min(len(start), len(whole))
    shared = int((start[:length] == whole[:length]).long().cumprod(0).sum())
    if shared == 0 and completion:  # no start token, and nothing from which the first token could be predicted
        begin = judge.encode_prompt("")
        return torch.cat([begin, whole]), len(begin)
    return whole, shared
