"""The overlap with a training set against plain Python that shares no code. Alone: pytest
tests/evaluation/test_overlap.py"""

import random
import time

import pytest
import torch

from hypergen.errors import InputError
from hypergen.evaluation.overlap import longest_overlap


def naive_overlap(rows, completion):
    best = 0
    for first in range(len(completion)):
        for last in range(first + 1, len(completion) + 1):
            run = completion[first:last]
            if any(row[i : i + len(run)] == run for row in rows for i in range(len(row))):
                best = max(best, len(run))
    return best


@pytest.mark.parametrize("seed", range(200))
def test_longest_overlap_against_search(seed):
    draw = random.Random(seed)
    num_ids, width = draw.choice([1, 2, 3, 20]), draw.choice([1, 2, 7, 16])
    rows = [[draw.randrange(num_ids) for _ in range(width)] for _ in range(draw.choice([1, 2, 5]))]
    completions = [[draw.randrange(num_ids + 1) for _ in range(draw.randrange(14))] for _ in range(5)]
    completions.append([*rows[0][: draw.randrange(width + 1)], num_ids + 3, *rows[-1][-2:]])
    lengths = longest_overlap([torch.tensor(row, dtype=torch.long) for row in completions], torch.tensor(rows))
    assert lengths.tolist() == [naive_overlap(rows, row) for row in completions]


def test_longest_overlap_stays_inside_one_sequence():
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    completions = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 2, 3, 9, 9, 9], [6, 6, 4, 5, 6, 1], [9, 9, 9, 9, 9, 9]])
    assert longest_overlap(completions, tokens).tolist() == [3, 2, 3, 0]
    assert longest_overlap(tokens[:, 1:], tokens).tolist() == [2, 2]
    assert longest_overlap([], tokens).tolist() == []


def test_a_long_recitation_is_found_in_a_large_set():
    draw = torch.Generator().manual_seed(0)
    tokens, completions = torch.randint(500, (300, 100), generator=draw), torch.randint(500, (4, 80), generator=draw)
    for row, length in enumerate((0, 3, 17, 64)):
        completions[row, 5 : 5 + length] = tokens[40 * row, 20 : 20 + length]
        completions[row, 5 + length] = 500 + row  # an id that is in no training sequence
        completions[row, 4] = 510
    found = longest_overlap(completions, tokens).tolist()
    assert found[2:] == [17, 64] and found[1] >= 3 and max(found[:2]) < 10


@pytest.mark.parametrize(
    "tokens", [torch.zeros(3), torch.zeros(0, 4).long(), torch.zeros(2, 2), torch.tensor([[-1]])], ids=str
)
def test_refusals(tokens):
    with pytest.raises(InputError, match=r"\(N, T\)"):
        longest_overlap([torch.tensor([1])], tokens)


@pytest.mark.slow
@pytest.mark.parametrize("num_ids", [1, 512, 50_000])
def test_time(num_ids):
    """2000 x 256 training tokens on one core; the bound is ten times what was measured."""
    tokens, completions = torch.randint(num_ids, (2000, 256)), torch.randint(num_ids, (64, 96))
    started = time.perf_counter()
    longest_overlap(completions, tokens)
    assert time.perf_counter() - started < 8


@pytest.mark.parametrize("seed", range(50))
def test_padding_is_no_quotation(seed):
    """Masked rows against the search in rows that were cut; prompts count as the rest does."""
    draw = random.Random(seed)
    rows = [[draw.randrange(3) for _ in range(9)] for _ in range(4)]
    lengths = [draw.randrange(1, 10) for _ in rows]
    loss_mask = torch.tensor([[place == length - 1 for place in range(9)] for length in lengths])
    completions = [[draw.randrange(4) for _ in range(draw.randrange(1, 14))] for _ in range(5)]
    found = longest_overlap([torch.tensor(row) for row in completions], torch.tensor(rows), loss_mask)
    cut = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    assert found.tolist() == [naive_overlap(cut, row) for row in completions]
