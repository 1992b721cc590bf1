"""Completions from elsewhere. Alone: pytest tests/evaluation/test_external_completions.py"""

import json
import os

import pytest
import torch

from hypergen.errors import InputError
from hypergen.evaluation.external_completions import read_completions

PROMPTS = torch.tensor([[1, 2], [3, 4]])
GOOD = [
    {"prompt_tokens": [1, 2], "completion_tokens": [5, 6, 7, 8], "text": "ab"},
    {"prompt_tokens": [3, 4], "completion_tokens": [7, 6, 5]},
]


def written(folder, lines):
    path = folder / "made.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_rows_are_cut_to_one_length(tmp_path):
    found = read_completions(written(tmp_path, GOOD), PROMPTS, 3, 9)
    assert found.tolist() == [[5, 6, 7], [7, 6, 5]]


def test_answers_may_end_before(tmp_path):
    lines = [GOOD[0], {"prompt_tokens": [3, 4], "completion_tokens": []}]
    assert read_completions(written(tmp_path, lines), PROMPTS, 3, 9, (8, 2)).tolist() == [[5, 6, 7], [8, 8, 8]]


def test_more_lines_than_prompts_are_left(tmp_path):
    assert len(read_completions(written(tmp_path, GOOD), PROMPTS[:1], 3, 9)) == 1


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "made.jsonl: is empty"),
        (["", " "], "made.jsonl: is empty"),
        (GOOD[:1], "has 1 completions, 2 prompts are compared"),
        (["[]", GOOD[1]], "line 1: is an array, not an object"),
        (["{}", GOOD[1]], "line 1: must have prompt_tokens and completion_tokens"),
        ([GOOD[0], "{"], "line 2: is not JSON"),
        (["[" * 100_000, GOOD[1]], "line 1: is nested deeper than 64"),
        (['{"prompt_tokens": [1, 2], "completion_tokens": [true, 5, 6]}', GOOD[1]], "line 1: must have"),
        ([GOOD[0], {"prompt_tokens": [3, 4], "completion_tokens": "abc"}], "line 2: must have"),
        ([GOOD[0], {"prompt_tokens": [3, 4], "completion_tokens": [2**70] * 3}], "line 2: must have"),
        (GOOD[::-1], "line 1: its prompt is not the one that is compared"),
        ([GOOD[0], {"prompt_tokens": [3, 4], "completion_tokens": [5, 6]}], "line 2: has 2 tokens, 3 are compared"),
        ([GOOD[0], {"prompt_tokens": [3, 4], "completion_tokens": [5, 6, 9]}], "has ids outside 0 to 8"),
    ],
)
def test_what_is_refused(lines, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        read_completions(written(tmp_path, lines), PROMPTS, 3, 9)
    assert "\n" not in str(caught.value)


def test_a_line_of_a_gigabyte(tmp_path):
    with (tmp_path / "made.jsonl").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="line 1: is longer than 16 MiB and has NUL bytes"):
        read_completions(str(tmp_path / "made.jsonl"), PROMPTS, 3, 9)


@pytest.mark.parametrize("name", ["", "nowhere", "pipe", "x" * 300])
def test_a_file_that_is_not_there(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="cannot be read"):
        read_completions(str(tmp_path / name), PROMPTS, 3, 9)
