"""Metrics of codes, against hand-worked examples and plain Python that shares no code.

Alone: pytest tests/image/test_metrics.py
"""

import math
import random
from collections import Counter
from itertools import groupby

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from hypergen.evaluation.agreement import choice_ranks, top_tokens
from hypergen.image.metrics import code_use, copying, patch_repetition, runs
from tests.image.tiny import base, pictures


def measured(prompts, completions, width=3):
    values = copying(torch.tensor([[99, *row] for row in prompts]), torch.tensor(completions), width)
    return {name: value.tolist() for name, value in values.items()}


def test_every_row_is_the_prompt_s_last():
    assert measured([[1, 2, 3]], [[1, 2, 3, 1, 2, 3]]) == {"rows_copied": [1.0], "codes_equal_above": [1.0]}


def test_one_share_a_picture():
    found = measured([[1, 2, 3], [1, 2, 3]], [[1, 2, 3, 4, 5, 6], [4, 2, 6, 4, 2, 6]])
    assert found == {"rows_copied": [1 / 2, 1 / 2], "codes_equal_above": [3 / 6, 4 / 6]}


def test_without_prompt_the_first_row_has_nothing_above():
    assert measured([[]], [[1, 2, 3, 1, 2, 3]]) == {"rows_copied": [1.0], "codes_equal_above": [1.0]}


def test_rows_that_the_prompt_began_do_not_count():
    found = measured([[1, 2, 3, 1]], [[2, 3, 1, 2, 4]])
    assert found == {"rows_copied": [0.0], "codes_equal_above": [4 / 5]}


def test_nothing_to_compare_is_nan():
    assert all(math.isnan(value) for (value,) in measured([[]], [[1, 2]]).values())


def test_runs_by_hand():
    found = runs(torch.tensor([[4, 4, 4, 2, 2, 4], [1, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7]]))
    assert found["run_longest"].tolist() == [3, 1, 6]
    assert found["run_mean"].tolist() == [2, 1, 6]
    assert all(value.isnan().all() for value in runs(torch.empty(2, 0, dtype=torch.long)).values())


def test_patches_by_hand():
    """Rows 1 2 1 2 and 3 4 3 4 below the prompt: three patches, the first and the last equal."""
    prompts, completions = torch.tensor([[99, 1, 2, 1, 2]]), torch.tensor([[1, 2, 1, 2, 3, 4, 3, 4]])
    assert patch_repetition(prompts, completions, 4)["patches_repeated"].tolist() == [pytest.approx(1 / 3)]
    assert patch_repetition(prompts, completions[:, :4], 4)["patches_repeated"].isnan().all()


@pytest.mark.parametrize("seed", range(30))
def test_against_plain_python(seed):
    draw = random.Random(seed)
    width, num_codes = draw.randrange(1, 6), draw.choice([2, 4])
    length, count = draw.randrange(0, 2 * width + 1), draw.randrange(1, 30)
    codes = [[draw.randrange(num_codes) for _ in range(length + count)] for _ in range(3)]
    tokens = torch.tensor([[99, *row] for row in codes])
    prompts, completions = tokens[:, : length + 1], tokens[:, length + 1 :]
    completed = [row[length:] for row in codes]
    lengths = [[len(list(group)) for _, group in groupby(row)] for row in completed]
    assert runs(completions)["run_longest"].tolist() == [max(row) for row in lengths]
    assert runs(completions)["run_mean"].tolist() == [pytest.approx(sum(row) / len(row)) for row in lengths]
    repeated = patch_repetition(prompts, completions, width)["patches_repeated"].tolist()
    for row, value in zip(codes, repeated, strict=True):
        corners = [at for at in range(length, len(row) - width - 1) if at % width < width - 1]
        seen = {(row[at], row[at + 1], row[at + width], row[at + width + 1]) for at in corners}
        expected = 1 - len(seen) / len(corners) if corners else math.nan
        assert value == pytest.approx(expected, nan_ok=True)
    counts = Counter(code for row in completed for code in row)
    total = sum(counts.values())
    perplexity = math.prod((count / total) ** (-count / total) for count in counts.values())
    found = code_use(completions, num_codes)
    assert found["codebook_use"].item() == pytest.approx(len(counts) / num_codes)
    assert found["codebook_perplexity"].item() == pytest.approx(perplexity)


def test_code_use_by_hand():
    found = code_use(torch.tensor([[0, 0, 1], [1, 5, 6]]), 8)
    assert found["codebook_use"].item() == 0.5
    assert found["codebook_perplexity"].item() == pytest.approx(3 ** (2 / 3) * 6 ** (1 / 3))
    nothing = code_use(torch.empty(2, 0, dtype=torch.long), 8)
    assert nothing["codebook_use"].item() == 0 and nothing["codebook_perplexity"].isnan()


def test_an_image_model_s_choices_can_be_ranked():
    """The last code is only ever a target, and the start token has no logit."""
    modality = base()
    tokens = modality.encode(pictures(3))
    prompts = modality.prompts(tokens)
    completions = generate(modality.model, prompts, modality.max_new_tokens(prompts.shape[1]), DecodingConfig())
    assert torch.cat(choice_ranks(modality.model, prompts, completions)).unique().tolist() == [1]
    assert top_tokens(modality.model, tokens).shape == (3, modality.sequence_length - 1)
