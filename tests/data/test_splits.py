"""Training and held-out items are kept apart. Alone: pytest tests/data/test_splits.py"""

import pytest
import torch

from hypergen.data.splits import require_count, split_items, unseen
from hypergen.errors import InputError
from hypergen.modality import Encoded

SPLIT_OF_8 = [1, 6, 5, 3, 4, 0, 7, 2]  # with seed 0


def split(items, held_out=10, seed=0, source="x", instead="--prompts", cut=lambda item: None):
    return split_items(items, held_out, seed, source, instead, cut=cut)


def test_a_split_is_seeded_and_no_item_is_in_both_parts():
    training, held_out = split(range(100))
    assert (len(training), len(held_out)) == (90, 10) and {*training, *held_out} == set(range(100))
    assert list(split(range(100))[1]) == list(held_out)
    assert list(split(range(100), seed=1)[1]) != list(held_out)


@pytest.mark.parametrize("items, expected", [(2, 1), (3, 1), (8, 2), (40, 10), (41, 10)])
def test_at_most_a_quarter_is_held_out(items, expected):
    assert len(split(range(items))[1]) == expected


@pytest.mark.parametrize("items", [0, 1])
def test_one_item_cannot_be_split(items):
    with pytest.raises(InputError, match=r"--data x: .*; give --prompts"):
        split(range(items))


def test_the_order_of_a_split_is_the_one_it_always_was():
    assert [list(part) for part in split(range(8), 2)] == [SPLIT_OF_8[2:], SPLIT_OF_8[:2]]


def test_the_end_of_the_only_item_is_held_out_where_it_can_be_cut(capsys):
    parts = split(["a long novel"], cut=lambda item: (item[:6], item[6:]))
    assert parts == (["a long"], [" novel"])
    said = "--data x: has one item, so its end is held out and never trained on; --prompts names others"
    assert capsys.readouterr().err == f"hypergen: {said}\n"


def test_a_part_is_read_only_where_it_is_asked_for():
    class Lazy(list):
        def __getitem__(self, index):
            read.append(index)
            return index

    read = []
    training, _ = split(Lazy(range(100)))
    some = training[3:5]
    assert not read
    assert [some[0], some[1]] == read and len(some) == 2 and training[-1] == read[-1]


def test_unseen_keeps_order_and_drops_what_is_trained_on():
    training = torch.tensor([[1, 2, 3], [4, 5, 6]])
    held_out = torch.tensor([[7, 8, 9], [4, 5, 6], [1, 2, 4]])
    assert unseen(Encoded(held_out), training).tokens.tolist() == [[7, 8, 9], [1, 2, 4]]
    kept = unseen(Encoded(held_out, held_out > 4), training)
    assert kept.loss_mask.tolist() == [[True] * 3, [False] * 3] and unseen(Encoded(held_out), training)[1] is None
    with pytest.raises(InputError, match="all 2 sequences are trained on"):
        unseen(Encoded(training.flip(0)), training)


def test_more_prompts_than_there_are_cannot_be_asked_for():
    held_out = torch.zeros(3, 2)
    require_count("--count", None, held_out)
    require_count("--count", 3, held_out)
    with pytest.raises(InputError, match=r"^--count 4: there are 3 prompts that were not trained on$"):
        require_count("--count", 4, held_out)
