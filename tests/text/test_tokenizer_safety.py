"""A tokenizer's file ends no process. Alone: pytest tests/text/test_tokenizer_safety.py"""

import json
import time

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hypergen.errors import InputError
from hypergen.text.tokenizer import LONGEST_WORD, load_tokenizer, tokenize, train_tokenizer
from hypergen.text.tokenizer_safety import check_normalizer, no_panic

BOMB = normalizers.Sequence([normalizers.Replace("a", "a" * 1000)] * 4)  # 10^12 characters of one
BOMBS = {
    "of texts": BOMB,
    "of expressions": normalizers.Sequence([normalizers.Replace(Regex("."), "bb" * 500)] * 3),
    "one inside the other": normalizers.Sequence([normalizers.NFC(), normalizers.Sequence([BOMB])]),
    "in one step": normalizers.Replace("a", "b" * 2000),
}
HARMLESS = {
    "none": None,
    "as Llama's": normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")]),
    "as T5's": normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    ),
    "quotation marks": normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')] * 5),
}


def saved(folder, **parts):
    """A tokenizer file with these parts."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", BOMBS)
def test_a_normalizer_that_grows_without_end_is_not_run(kind, tmp_path):
    saved(tmp_path, normalizer=BOMBS[kind])
    started = time.perf_counter()
    with pytest.raises(
        InputError, match=r"tokenizer.json: its normalizer or decoder can make .* characters of one; at"
    ):
        load_tokenizer(tmp_path)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_harmless_normalizer_passes(kind, tmp_path):
    check_normalizer(
        saved(tmp_path, **({} if HARMLESS[kind] is None else {"normalizer": HARMLESS[kind]})) / "tokenizer.json"
    )
    check_normalizer(tmp_path / "nothing.json")


def test_a_decoder_is_judged_as_well(tmp_path):
    saved(tmp_path, decoder=decoders.Sequence([decoders.Replace("a", "a" * 1000)] * 4))
    with pytest.raises(InputError, match="its normalizer or decoder can make"):
        check_normalizer(tmp_path / "tokenizer.json")


def test_a_bomb_in_escaped_letters_is_found(tmp_path):
    path = saved(tmp_path, normalizer=BOMB) / "tokenizer.json"
    path.write_text(path.read_text().replace("Replace", "\\u0052eplace"))
    assert "Replace" not in path.read_text() and json.loads(path.read_text())
    with pytest.raises(InputError, match="can make"):
        check_normalizer(path)


def test_what_is_no_tokenizer_is_left_to_the_library(tmp_path):
    for content in ("", "[]", '{"normalizer": {"type": "Sequence", "normalizers": 3}, "Replace": ""}', '"Replace"'):
        (tmp_path / "tokenizer.json").write_text(content)
        check_normalizer(tmp_path / "tokenizer.json")


def test_a_regular_expression_that_takes_too_many_steps_is_one_line(tmp_path):
    expression = pre_tokenizers.Split(Regex(r"^(?:(a|a|aa)+)+$"), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(saved(tmp_path, pre_tokenizer=expression) / "tokenizer.json"))
    )
    with pytest.raises(InputError, match=r"^a text: its tokenizer fails"):
        list(tokenize(tokenizer, ["a" * 5000 + "b"], special=False))


def test_other_failures_pass():
    for failure in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(failure), no_panic("here"):
            raise failure
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(InputError, match=r"^here: its tokenizer fails \(no more\)$"), no_panic("here"):
        raise panic("no more")


def test_two_words_of_a_megabyte_take_no_minutes():
    """Their length counts with its square in the training of a BPE, so they are cut for it."""
    started = time.perf_counter()
    trained = train_tokenizer(["ab" * 500_000, "ba" * 500_000, "short words"], 300)
    assert time.perf_counter() - started < 20
    (ids,) = tokenize(trained, ["ab" * 20], special=False)
    assert len(ids) < 20 and LONGEST_WORD == 1000
