"""What a loss mask says of prompts, padding and means, by hand. Alone: pytest tests/data/test_loss_mask.py"""

import torch

from hypergen.data.loss_mask import (
    cut_originals,
    cut_prompts,
    is_content,
    num_completed,
    sequence_values,
    without_padding,
)
from tests.toy.adapter import toy

TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
MASK = torch.tensor([[False, False, True, False, True], [False, True, True, False, False]])


def test_padding_lies_behind_the_last_token_that_counts():
    assert is_content(MASK).tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert [row.tolist() for row in without_padding(TOKENS, MASK)] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    assert [row.tolist() for row in without_padding(TOKENS, None)] == TOKENS.tolist()


def test_a_prompt_ends_before_the_first_token_that_counts():
    assert [row.tolist() for row in cut_prompts(toy(), TOKENS, MASK)] == [[1, 2], [6]]
    assert cut_prompts(toy(), TOKENS, MASK[[0, 0]]).tolist() == [[1, 2], [6, 7]]  # one length: a tensor
    assert cut_prompts(toy(), TOKENS, torch.ones(2, 5, dtype=torch.bool)).tolist() == [[1], [6]]  # never empty
    assert cut_prompts(toy(), TOKENS, None).tolist() == [[1, 2, 3, 4], [6, 7, 8, 0]]  # the modality's own


def test_completions_are_as_long_as_the_shortest_prompt_leaves_and_the_context_allows():
    prompts = cut_prompts(toy(), TOKENS, MASK)  # of 2 and of 1 tokens
    assert [num_completed(prompts, 5, context) for context in (99, 6, 5)] == [4, 4, 3]
    assert num_completed(TOKENS[:, :3], 5, 99) == 2


def test_originals_end_with_their_sequence():
    prompts = cut_prompts(toy(), TOKENS, MASK)
    assert [row.tolist() for row in cut_originals(TOKENS, MASK, prompts, 4)] == [[3, 4, 5], [7, 8]]
    assert [row.tolist() for row in cut_originals(TOKENS, None, TOKENS[:, :3], 1)] == [[4], [0]]


def test_the_mean_of_values_is_that_over_all_counted_predictions():
    values = torch.tensor([[9.0, 1.0, 9.0, 2.0], [4.0, 8.0, torch.inf, torch.nan]])
    found = sequence_values(values, MASK)
    assert found.tolist() == [3 / 2, 12 / 2] and found.mean() == (1 + 2 + 4 + 8) / 4
    longer = torch.tensor([[False, True, True, True, True], [False, True, False, False, False]])
    assert sequence_values(values, longer).mean() == (9 + 1 + 9 + 2 + 4) / 5  # no mean of means, which would be 4.625
    assert sequence_values(values[:1], None).tolist() == [21 / 4]
