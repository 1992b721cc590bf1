"""Two bases compared in words: where prompts end, what is counted.

Alone: pytest tests/benchmarks/test_base_comparison.py
"""

import pytest
import torch

from tests.benchmarks.scripts import load
from tests.text import tiny

base_comparison = load("base_comparison")
beginnings, in_words, table = base_comparison.beginnings, base_comparison.in_words, base_comparison.table


def test_passages_are_spread_over_each_text_and_go_on_where_the_prompt_ends():
    texts = [" ".join(f"w{number}x{place}" for place in range(3000)) for number in range(4)]
    found = beginnings(texts)
    assert len(found) == base_comparison.NUM_PROMPTS
    for prompt, original in found:
        assert len(prompt.split()) == base_comparison.PROMPT_WORDS
        assert any(prompt + original[:40] in text for text in texts)
    assert len({prompt for prompt, _ in found}) == len(found)


def test_a_text_that_is_too_short_has_no_passage():
    assert beginnings(["a few words and no more"]) == []


def test_measures_count_words_and_not_their_pieces():
    completions = [" the cat sat on the mat and a blorf", " one two three four one two three four five"]
    known = frozenset(["the", "cat", "sat", "on", "mat", "and", "a", "one", "two", "three", "four", "five"])
    values = in_words(["So", "So"], completions, ["then the Cat sat on it"], known)
    assert values["unknown_words"].tolist() == [0, 0]  # the last word may be cut, so it does not count
    assert values["overlap"].tolist() == [4, 0]
    assert values["rep_4"].tolist() == pytest.approx([0, 1 / 5])
    assert values["ttr"].tolist() == pytest.approx([7 / 8, 4 / 8])
    assert in_words(["So"], [" a blorf sat on it"], ["x"], known)["unknown_words"].item() == pytest.approx(1 / 4)


def test_the_table_has_a_line_a_row_and_the_loss_once():
    value = {"mean": 0.5, "low": 0.25, "high": 0.75}
    row = dict.fromkeys(("unknown_words", "rep_4", "ttr", "overlap"), value)
    base = {"parameters": 2_654_240, "loss": value, "rows": {"base greedy": row, "original": row}}
    lines = table({"old": base}).splitlines()
    assert len(lines) == 4
    assert [line.count("0.500 [0.250, 0.750]") for line in lines[2:]] == [5, 4]
    assert "old, 2.7 M" in lines[2]


def test_whole_comparison_on_a_tiny_base(tmp_path, monkeypatch):
    """A random model through fit, completions and record."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    folder.mkdir()
    tiny.modality("llama").save(folder)
    for name, value in {
        "NUM_PROMPTS": 2,
        "PROMPT_WORDS": 2,
        "COMPLETION_WORDS": 3,
        "NEW_TOKENS": 24,
        "PASSAGE": 40,
    }.items():
        monkeypatch.setattr(base_comparison, name, value)
    fit = base_comparison.hypergen.fit
    small = {"num_samples": 2, "epochs": 1, "held_out_samples": 1, "sequence_length": 16, "prompt_length": 4}
    monkeypatch.setattr(base_comparison.hypergen, "fit", lambda **options: fit(**options, **small))
    load = base_comparison.hypergen.load
    monkeypatch.setattr(base_comparison.hypergen, "load", lambda path: load(path, sequence_length=48, prompt_length=4))
    passages = [("the cat", " sat on the mat and"), ("a dog", " went over the hill")]
    found = base_comparison.measure(folder, passages, frozenset(["the", "on"]), [0, 1])
    assert list(found["rows"]) == ["base greedy", "base top-p", "hyperfitted greedy", "original"]
    assert len(found["fit_seconds"]) == 2
    assert table({"tiny": found}).count("\n") == 5
