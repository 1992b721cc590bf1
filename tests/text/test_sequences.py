"""Documents to sequences of equal length. Alone: pytest tests/text/test_sequences.py"""

from __future__ import annotations

import pytest
import torch

from hypergen.errors import InputError
from hypergen.text.config import Settings
from hypergen.text.sequences import beginnings_first, drawn_windows, packed_stream
from hypergen.text.tokenizer import tokenize
from tests.text import tiny


def test_packed_stream_has_one_end_token_between_texts():
    modality = tiny.modality(settings=Settings(sequence_length=8, prompt_length=4))
    stream = modality.encode(tiny.TEXTS).flatten()
    assert stream[0] == 0
    whole = modality.decode(stream[None])[0]
    assert "".join(tiny.TEXTS).startswith(whole) and len(stream) > 100
    assert int((stream == 0).sum()) == len(tiny.TEXTS)  # the last one falls into the dropped remainder
    with pytest.raises(InputError, match=r"--sequence-length 64: all 1 texts together have only 3 tokens"):
        tiny.modality(settings=Settings(sequence_length=64)).encode(["a"])


def test_a_packed_stream_without_end_token_is_the_documents_alone():
    ids = [index for row in tokenize(tiny.tokenizer(), tiny.TEXTS, special=False) for index in row]
    stream = packed_stream(tiny.tokenizer(), tiny.TEXTS, 8, None).flatten().tolist()
    assert stream == ids[: len(ids) // 8 * 8]


def test_drawn_windows():
    modality = tiny.modality()
    chosen, loss_mask = modality.encode_training(tiny.TEXTS, count=9, seed=5)
    assert chosen.shape == (9, 16) and chosen.dtype == torch.long and loss_mask is None
    assert torch.equal(chosen, modality.encode_training(tiny.TEXTS, count=9, seed=5).tokens)
    assert not torch.equal(chosen, modality.encode_training(tiny.TEXTS, count=9, seed=6).tokens)
    windows = {
        tuple(ids[first : first + 16])
        for ids in tokenize(modality.tokenizer, tiny.TEXTS, special=True)
        for first in range(0, len(ids) - 15, 16)
    }
    assert {tuple(row) for row in chosen.tolist()} <= windows


def test_no_window_is_drawn_twice():
    documents = ["The ferryman rowed across the river in the morning and rowed back across the river."]
    (ids,) = tokenize(tiny.tokenizer(), documents, special=True)
    count = len(ids) // 4
    drawn = drawn_windows(tiny.tokenizer(), documents, 4, count=count, seed=1)
    assert sorted(drawn.tolist()) == sorted(ids[first : first + 4] for first in range(0, 4 * count, 4))


def test_windows_carry_the_tokenizers_begin_token():
    modality = tiny.with_begin_token()
    rows = modality.encode_training(tiny.TEXTS, count=20, seed=0).tokens
    begins = (rows == modality.tokenizer.bos_token_id).nonzero()
    assert len(begins) > 0 and bool((begins[:, 1] == 0).all())  # only the first window of a text has one
    assert len(begins) < 20


def test_too_few_sequences():
    with pytest.raises(InputError) as error:
        tiny.modality().encode_training(tiny.TEXTS[:2], count=2000)
    message = str(error.value)
    assert message.startswith("--num-samples 2000: only ") and "\n" not in message
    assert message.endswith(
        "of 16 tokens (--sequence-length) qualify in 2 texts; lower one of the two or give more text"
    )
    with pytest.raises(InputError, match=r"qualify in 3 texts, of which 2 are shorter; lower"):
        tiny.modality().encode_training(["a", "b", *tiny.TEXTS[:1]], count=2000)


@pytest.mark.parametrize("encode", ["encode_training", "encode_held_out"])
def test_documents_that_are_all_too_short(encode):
    with pytest.raises(InputError) as error:
        getattr(tiny.modality(), encode)(["a", "b a b", "b"], count=2)
    said = "--sequence-length 16: all 3 texts are shorter, the longest has 3 tokens; lower it, or join them with --pack"
    said += ", or fill them up with --pad"
    assert str(error.value).removeprefix("held-out texts: ") == said


@pytest.mark.parametrize("encode", ["encode_training", "encode_held_out"])
def test_short_documents_are_packed_on_request(encode):
    modality = tiny.modality(settings=Settings(sequence_length=16, prompt_length=4, pack=True))
    short = [f"{n} times across" for n in range(40)]
    rows = getattr(modality, encode)(short, count=3).tokens
    assert rows.shape == (3, 16) and bool((rows == modality.end_tokens[0]).any(1).all())
    stream = "|".join(modality.decode(row[None])[0] for row in rows)
    assert "times across" in stream
    with pytest.raises(InputError, match=r"all 1 texts are together shorter, the longest has 1 tokens; lower it$"):
        getattr(modality, encode)(["a"], count=2)


def test_only_as_many_texts_are_read_as_are_needed():
    class Endless:
        read = 0

        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            Endless.read += 1
            return tiny.TEXTS[index % 4] * 3

    assert tiny.modality().encode_training(Endless(), count=4).tokens.shape == (4, 16)
    assert Endless.read < 500


def test_held_out_sequences_are_beginnings():
    modality = tiny.modality()
    found = modality.encode_held_out(tiny.TEXTS, 5, seed=2).tokens
    beginnings = [tuple(row[:16]) for row in modality.tokenizer(tiny.TEXTS)["input_ids"]]
    assert found.shape == (5, 16) and {tuple(row) for row in found.tolist()} <= set(beginnings)
    assert torch.equal(found, modality.encode_held_out(tiny.TEXTS, 5, seed=2).tokens)
    more = modality.encode_held_out(["short", *tiny.TEXTS[:3]], 64).tokens
    windows = [len(ids) // 16 for ids in modality.tokenizer(tiny.TEXTS[:3])["input_ids"]]
    assert len(more) == sum(windows) and {tuple(row) for row in more[:3].tolist()} == set(beginnings[:3])
    with pytest.raises(InputError, match="held-out texts: --sequence-length 16: all 2 texts are shorter"):
        modality.encode_held_out(["a", "b"], 2)


def test_beginnings_come_before_later_windows():
    lengths = [len(ids) for ids in tokenize(tiny.tokenizer(), tiny.TEXTS[:4], special=True)]
    found = beginnings_first(tiny.tokenizer(), tiny.TEXTS[:4], 8, count=10**6, seed=0)
    assert len(found) == sum(length // 8 for length in lengths)
    beginnings = {tuple(ids[:8]) for ids in tokenize(tiny.tokenizer(), tiny.TEXTS[:4], special=True)}
    assert {tuple(row) for row in found[:4].tolist()} == beginnings


def test_tokenizing_shows_progress(phases):
    """Windows that are looked at, or documents that gave one, until there are enough."""
    packed_stream(tiny.tokenizer(), tiny.TEXTS, 8, None)
    assert phases() == {"tokenize": f"{len(tiny.TEXTS)}/{len(tiny.TEXTS)}"}
    drawn_windows(tiny.tokenizer(), tiny.TEXTS, 8, count=1, seed=0)
    (count,) = phases().values()
    assert count.endswith("/16") and int(count.split("/")[0]) >= 16
    beginnings_first(tiny.tokenizer(), tiny.TEXTS, 8, count=3, seed=0)
    assert phases() == {"tokenize held-out texts": "3/3"}
