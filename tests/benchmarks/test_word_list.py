"""The script that makes a word list. Alone: pytest tests/benchmarks/test_word_list.py"""

import json
import sys

from hypergen.text.word_list import find_words, read_words
from tests.benchmarks.scripts import load

word_list = load("word_list")


def test_a_corpus_becomes_a_list(tmp_path, monkeypatch, capsys):
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "words.txt.gz"
    corpus.write_text("\n".join(json.dumps({"body": text}) for text in ("The sea, the sky.", "A SEA; once, once.")))
    monkeypatch.setattr(sys, "argv", ["word_list.py", str(corpus), "--output", str(output), "--text-field", "body"])
    word_list.main()
    assert read_words(output) == {"once", "sea", "the"}
    monkeypatch.setattr(sys, "argv", ["word_list.py", str(corpus), "--base", str(tmp_path), "--text-field", "body"])
    word_list.main()
    found = find_words(str(tmp_path))
    assert found.words == {"once", "sea", "the"}
    assert found.origin == "seen at least 2 times in corpus.jsonl"
    assert f"{output}: 3 of 5 words, 8 in all; {output.stat().st_size} bytes" in capsys.readouterr().out
