"""Where completions end, with none, one and several end tokens. Alone: pytest tests/decoding/test_end_tokens.py"""

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.end_tokens import is_end, longest, stack, trim
from hypergen.decoding.loop import generate
from tests.decoding.models import Chain, random_prompts, toy

TOKENS = torch.tensor([[5, 2, 7, 2], [2, 2, 2, 2], [5, 6, 7, 8]])


def test_any_of_them_is_an_end():
    assert is_end(TOKENS, [2, 8]).tolist() == [[False, True, False, True], [True] * 4, [False] * 3 + [True]]
    assert not is_end(TOKENS, []).any()


def test_the_longest_completion_keeps_its_end_token():
    assert [longest(TOKENS[:2], ends) for ends in ([2], [7], [])] == [2, 4, 4]
    assert longest(TOKENS, [2, 6]) == 2


def test_trim_cuts_before_the_first_end_token():
    assert [row.tolist() for row in trim(TOKENS, [2])] == [[5], [], [5, 6, 7, 8]]
    assert [row.tolist() for row in trim(TOKENS, [7, 2])] == [[5], [], [5, 6]]
    assert [row.tolist() for row in trim(TOKENS, [])] == TOKENS.tolist()
    assert trim(TOKENS[:0], [2]) == []


def test_rows_of_different_lengths_are_stacked():
    rows = [torch.tensor(row, dtype=torch.long) for row in ([5, 6, 7], [5, 2, 6], [2], [])]
    assert stack(rows, [9, 2]).tolist() == [[5, 6, 7], [5, 9, 9], [9, 9, 9], [9, 9, 9]]
    assert stack(rows[:2], []).equal(torch.stack(rows[:2]))
    assert [row.tolist() for row in trim(stack(rows, [9, 2]), [9, 2])] == [[5, 6, 7], [5], [], []]


def test_each_of_several_ends_a_row_and_the_first_fills_it_up():
    table = torch.full((5, 5), -50.0)
    table[0, 1] = table[1, 2] = table[2, 3] = table[3, 4] = table[4, 0] = 50.0
    prompts = torch.tensor([[0], [2], [4]])
    assert generate(Chain(table), prompts, 9, end_tokens=(4, 2)).tolist() == [[1, 2, 4], [3, 4, 4], [0, 1, 2]]
    endless = DecodingConfig(stop_at_end=False)
    assert generate(Chain(table), prompts, 9, endless, end_tokens=(4, 2)).shape == (3, 9)


@pytest.mark.parametrize(
    "config", [DecodingConfig(), DecodingConfig(strategy="temperature", seed=1), DecodingConfig(strategy="beam")]
)
def test_rows_are_those_without_an_end_up_to_the_first_of_several(config):
    model, prompts = toy(), random_prompts(9)
    whole = generate(model, prompts, 20, config)
    ends = tuple(whole[:, 3:].flatten().bincount().argsort(descending=True)[:2].tolist())
    completions = generate(model, prompts, 20, config, end_tokens=ends)
    if config.strategy != "beam":  # whose other continuations have a chance once one has ended
        assert [row.tolist() for row in trim(completions, ends)] == [row.tolist() for row in trim(whole, ends)]
    for row in completions.tolist():
        place = next((place for place, one in enumerate(row) if one in ends), None)
        assert place is None or set(row[place + 1 :]) <= {ends[0]}
