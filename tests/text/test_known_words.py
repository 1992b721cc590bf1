"""Words that a list knows, by hand and in the record of a fit. Alone: pytest tests/text/test_known_words.py"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import hypergen
from hypergen.text.known_words import count_words, known_words, whole_words, words_of
from hypergen.text.word_list import write_words

VOCABULARY = frozenset(("the", "cat", "sat", "don't", "was", "full"))


def test_the_share_by_hand():
    """Of the words the, cat, sat, don't, sprongle, the: all but one."""
    completions = ["The cat sat; don't sprongle the.", "Toydfulsk! Wonderfulouths.", "THE CAT WAS FULL..."]
    assert known_words(completions, VOCABULARY).tolist() == pytest.approx([5 / 6, 0, 1])


@pytest.mark.parametrize("text", ["", " \n", "... 1999 -- 42!", "cut"])
def test_nothing_to_count_is_nan(text):
    assert math.isnan(known_words([text], VOCABULARY)[0])


def test_words_of_the_prompt_do_not_count():
    assert known_words([" sat."], VOCABULARY, ["Sprongle sprongle"]).tolist() == [1]
    assert known_words([" sprongle."], VOCABULARY, ["The cat"]).tolist() == [0]


@pytest.mark.parametrize(
    ("prompt", "completion", "words"),
    [
        ("Down to the har", "bour, full of shi", ["full", "of"]),  # both ends are cut
        ("Down to the har", " bour, full of ships.", ["bour", "full", "of", "ships"]),
        ("I don", "'t know it.", ["know", "it"]),
        ("He said '", "no' again.", ["no", "again"]),
        ("", "Whole words don", ["whole", "words"]),
        ("", "and so they don'", ["and", "so", "they"]),
        ("one", "word", []),
    ],
)
def test_cut_words_do_not_count(prompt, completion, words):
    assert whole_words(prompt, completion) == words


def test_what_a_word_is():
    assert words_of("It's the dogs' 2nd well-known O\N{RIGHT SINGLE QUOTATION MARK}Neill_x") == [
        *("it's", "the", "dogs", "nd", "well", "known", "o'neill", "x")
    ]
    composed, combining = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    assert words_of(composed.upper()) == words_of(combining) == [composed]
    assert words_of("שלום, мир! 👩‍🚀") == ["שלום", "мир"]
    assert [words_of(word) for word in words_of("İstanbul o'clock")] == [["i"], ["stanbul"], ["o'clock"]]


def test_a_corpus_is_counted_one_text_at_a_time():
    read, told = [], []

    def texts():
        for text in ("A cat. A dog.", "a CAT"):
            assert len(told) == len(read)
            read.append(text)
            yield text

    counts = count_words(texts(), lambda: told.append(1))
    assert counts == {"a": 3, "cat": 2, "dog": 1} and len(told) == 2
    assert count_words([]) == {}


def test_a_fit_and_an_evaluation_record_it_where_the_base_has_a_list(text_base, text_data, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(text_base, base)
    options = {"num_samples": 8, "epochs": 1, "held_out_samples": 6, "measure_every": 0, "device": "cpu"}
    options |= {"data": text_data, "sequence_length": 16, "prompt_length": 4, "learning_rate": 1e-3, "batch_size": 8}
    plain = hypergen.fit(modality="text", model=str(base), output=str(tmp_path / "plain"), **options)
    assert not any("known_words" in row["values"] for row in plain.records)

    write_words(base / "list.gz", count_words([Path(text_data).read_text("utf-8")]))
    card = {"modality": "text", "words": {"file": "list.gz", "from": "of the tests"}}
    (base / "hypergen.json").write_text(json.dumps(card))
    run = hypergen.fit(model=str(base), output=str(tmp_path / "run"), **options)
    shares = {row["name"]: row["values"]["known_words"]["mean"] for row in run.records}
    assert shares["original"] == 1 and shares.keys() == {row["name"] for row in run.records}
    assert 0 <= shares["hyperfitted greedy"] < 1  # a random model
    compared = hypergen.evaluate(run, device="cpu", count=4)
    assert all("known_words" in row["values"] for row in compared.records)
    assert "of the tests" in compared.notes["known_words"]
