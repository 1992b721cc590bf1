"""Trained and loaded tokenizers. Alone: pytest tests/text/test_tokenizer.py"""

from __future__ import annotations

import re

import pytest

from hypergen.errors import InputError
from hypergen.text.tokenizer import (
    END_OF_TEXT,
    LONGEST_WORD,
    SMALLEST_VOCABULARY_SIZE,
    TEXTS_PER_BATCH,
    _cut,
    begin_once,
    decode_texts,
    largest_id,
    load_tokenizer,
    prefix_ids,
    tokenize,
    train_tokenizer,
)
from tests.text import tiny


def test_any_string_survives():
    texts = [*tiny.TEXTS, "  two  spaces .  And , so on ' s\t\n", "\x00\x01\ud7ff\U0010ffff", "שלום 👩‍🚀", ""]
    rows = list(tokenize(tiny.tokenizer(), texts, special=True))
    assert decode_texts(tiny.tokenizer(), rows) == texts


@pytest.mark.parametrize("size", [SMALLEST_VOCABULARY_SIZE, 280, 300])
def test_a_trained_vocabulary_has_exactly_its_size(size):
    trained = train_tokenizer(tiny.TEXTS, size)
    assert len(trained) == size and largest_id(trained) == size - 1
    assert trained.convert_tokens_to_ids(END_OF_TEXT) == 0
    assert trained.bos_token_id == trained.eos_token_id == trained.pad_token_id == 0


def test_few_texts_fill_no_large_vocabulary():
    assert SMALLEST_VOCABULARY_SIZE < len(train_tokenizer(["ab ab ab"])) < SMALLEST_VOCABULARY_SIZE + 5


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(InputError, match=r"^--vocabulary-size 256: must be 257 or more$"):
        train_tokenizer(tiny.TEXTS, 256)


def test_training_is_repeatable():
    assert train_tokenizer(tiny.TEXTS, 290).get_vocab() == train_tokenizer(tiny.TEXTS, 290).get_vocab()


def test_saved_and_loaded_gives_the_same_ids(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert list(tokenize(loaded, tiny.TEXTS, special=True)) == list(
        tokenize(tiny.tokenizer(), tiny.TEXTS, special=True)
    )
    assert loaded.eos_token_id == 0


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'])
def test_a_broken_tokenizer_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: its tokenizer ") and "\n" not in str(error.value)


def test_texts_are_read_a_batch_at_a_time():
    read = []
    rows = tokenize(tiny.tokenizer(), (read.append(text) or text for text in ["a"] * 1000), special=False)
    next(rows)
    assert len(read) == TEXTS_PER_BATCH


def test_the_prefix_is_what_stands_in_front_of_any_text():
    assert prefix_ids(tiny.tokenizer()) == []
    marked = tiny.with_begin_token().tokenizer
    assert prefix_ids(marked) == [marked.bos_token_id]
    (ids,) = tokenize(marked, ["The ferryman"], special=True)
    assert ids == prefix_ids(marked) + next(tokenize(marked, ["The ferryman"], special=False))


def test_pieces_added_later_do_not_count_as_the_vocabulary():
    trained = train_tokenizer(tiny.TEXTS, 280)
    trained.add_tokens(["<added>"])
    assert len(trained) == 281 and largest_id(trained) == 279


def test_special_tokens_are_not_decoded():
    assert decode_texts(tiny.tokenizer(), [[0, *tiny.tokenizer()("a  b")["input_ids"], 0, 0]]) == ["a  b"]


def test_start_tokens_that_a_text_has_already_are_not_put_there_twice():
    marked = tiny.with_begin_token().tokenizer
    begin = marked.bos_token_id
    texts = ["<s>The river", "The river", "<s>", ""]
    for special, count in ((True, [1, 1, 1, 1]), (False, [1, 0, 1, 0])):
        found = list(tokenize(marked, texts, special=special))
        assert [ids.count(begin) for ids in found] == count
    assert found[0][1:] == found[1] and begin_once([5, 6], [5]) == [5, 6] and begin_once([], [5]) == [5]


def test_a_text_is_cut_where_a_run_is_too_long_and_nowhere_else():
    texts = ["a b " * 2000, "x" * LONGEST_WORD, "one " + "x" * (2 * LONGEST_WORD + 1) + " two" + " " * 2500 + "end", ""]
    for text in texts:
        assert "".join(_cut(text)) == text
    assert list(_cut(texts[0])) == [texts[0]] and list(_cut(texts[1])) == [texts[1]]
    parts = list(_cut(texts[2]))
    assert len(parts) == 5
    runs = [run for part in parts for run in re.findall(r"\S+|\s+", part)]
    assert max(map(len, runs)) == LONGEST_WORD
