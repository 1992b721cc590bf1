"""Loss of texts under another model, against a loop in transformers. Alone: pytest tests/evaluation/test_judge.py"""

from __future__ import annotations

import math

import pytest
import torch

from hypergen.errors import InputError
from hypergen.evaluation import predictions as module
from hypergen.evaluation.judge import loss_under
from tests.text import tiny

PAIRS = [
    ("The ferryman rowed across", " the river in the evening."),
    ("Nobody in the vill", "age had ever seen the sea"),  # a word across the border
    ("On the first day", " it rained."),
    ("On the first day", " it rained."),
    ("Grüße aus", " Kōbe! \N{WAVING HAND SIGN}"),
    ("", "The river."),
    ("Th", "e"),  # nothing is left of the prompt alone
]


@pytest.fixture(params=["native", "torch"], autouse=True)
def way(request, monkeypatch):
    """Each test runs with the native measures, where there are any, and with torch's."""
    if request.param == "torch":
        monkeypatch.setattr(module, "sharpness_native", lambda *arguments: None)


@torch.no_grad()
def by_hand(judge, prompt, completion):
    """All logits at once, one text at a time; the completion begins where the ids leave those of the prompt alone."""
    tokenizer, prefix = judge.tokenizer, judge._prefix
    alone, whole = (
        prefix + tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + completion)
    )
    first = 0
    while first < min(len(alone), len(whole)) and alone[first] == whole[first]:
        first += 1
    if first == 0:
        whole, first = [tokenizer.bos_token_id, *whole], 1
    logits = judge.model.causal(input_ids=torch.tensor([whole])).logits[0].double()
    chosen = logits.log_softmax(-1)
    nats = [-chosen[place - 1, whole[place]].item() for place in range(first, len(whole))]
    return sum(nats) / len(completion)


@pytest.mark.parametrize("make", [tiny.modality, tiny.with_begin_token])
def test_against_a_plain_loop(make):
    judge = make()
    prompts, completions = zip(*PAIRS, strict=True)
    losses = loss_under(judge, prompts, completions)
    assert losses.dtype == torch.float64 and losses.shape == (len(PAIRS),)
    assert losses.tolist() == pytest.approx([by_hand(judge, *pair) for pair in PAIRS], rel=1e-5)
    assert losses[2] == losses[3] > 0


def test_a_token_across_the_border_counts_whole():
    judge = tiny.modality()
    piece = max((one for one in judge.tokenizer.get_vocab() if one.isascii() and one.isalpha()), key=len)
    (token,) = judge.tokenizer(piece)["input_ids"]
    assert len(piece) > 1 and judge.tokenizer(piece[0])["input_ids"] != [token]
    begun = torch.tensor([[judge.tokenizer.bos_token_id, token]])
    with torch.no_grad():
        nats = -judge.model.causal(input_ids=begun).logits[0, 0].double().log_softmax(-1)[token].item()
    assert loss_under(judge, [piece[0]], [piece[1:]]).item() == pytest.approx(nats / (len(piece) - 1), rel=1e-5)


def test_an_empty_completion_is_nan_and_the_others_keep_their_places():
    judge = tiny.modality()
    losses = loss_under(judge, ["The sea", "The sea", ""], ["", " had none.", ""])
    assert [math.isnan(loss) for loss in losses] == [True, False, True]
    assert losses[1] == loss_under(judge, ["The sea"], [" had none."])[0]
    assert loss_under(judge, [], []).shape == (0,)


def test_the_judge_is_left_as_it_was():
    judge = tiny.modality()
    judge.model.train()
    loss_under(judge, ["The"], [" sea."])
    assert judge.model.training


def test_refusals():
    judge = tiny.modality()
    with pytest.raises(InputError, match=r"^prompt 2: \d+ tokens; the context of 64 leaves room for at most 63$"):
        loss_under(judge, ["a", "a"], [" b", " \N{WAVING HAND SIGN}" * 64])
    with pytest.raises(InputError, match="is of type"):
        loss_under(judge, [3], [4])
    with pytest.raises(ValueError):
        loss_under(judge, ["a"], [])


def test_progress_is_shown(phases):
    loss_under(tiny.modality(), ["The", "The", "On the"], [" sea.", "", " first"])
    assert phases() == {"loss under another model": "2/2"}
