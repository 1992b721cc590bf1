"""One example in words, its loop marked. Alone: pytest tests/evaluation/test_example.py"""

import json

import torch

from hypergen.evaluation.example import example_of, stretches
from tests.text import tiny
from tests.toy.adapter import toy


def test_the_loop_of_a_text_is_marked_and_nothing_is_lost():
    modality = tiny.modality()
    prompt, looping = (modality.encode_prompt(text) for text in ("The ferryman", " rowed across the river and" * 4))
    (whole,) = modality.render(prompts=[prompt], completions=looping[None])
    parts = stretches(modality, prompt, looping)
    assert "".join(text for text, _ in parts) == whole
    assert [is_marked for _, is_marked in parts] == [False, True]
    assert parts[0][0].count("rowed") == 1 and parts[1][0].count("rowed") == 3


def test_an_example_is_json_with_prompt_before_and_after():
    modality = tiny.modality()
    prompt = modality.encode_prompt("The ferryman")
    before, after = modality.encode_prompt(" so it goes on" * 5), modality.encode_prompt(" rowed home.")
    shown = example_of(modality, prompt, before, after)
    assert json.loads(json.dumps(shown)) == shown
    assert shown.keys() == {"prompt", "before", "after"} and "ferryman" in shown["prompt"]
    assert any(is_marked for _, is_marked in shown["before"]) and not any(mark for _, mark in shown["after"])


def test_items_that_are_no_text_have_no_example():
    assert example_of(toy(), torch.tensor([16, 1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6])) is None


def test_an_empty_completion_has_no_stretches():
    modality = tiny.modality()
    assert stretches(modality, modality.encode_prompt("The ferryman"), torch.tensor([], dtype=torch.long)) == []
