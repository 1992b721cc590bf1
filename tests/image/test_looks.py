"""The grid to look at, and the measures of copying. Alone: pytest tests/image/test_looks.py"""

import math

import pytest
import torch
from PIL import Image

from hypergen.image.grid import GAP, LEAST_SIDE, draw
from hypergen.image.measures import copying
from tests.image.tiny import pictures


@pytest.mark.parametrize(("size", "shown"), [(8, 96), (32, 96), (40, 120), (96, 96), (200, 200)])
def test_pictures_are_enlarged_by_whole_factors(size, shown):
    drawn = draw({"a": pictures(2, size), "b": pictures(2, size)})
    assert drawn.width == 2 * shown + 3 * GAP
    top = drawn.height - 2 * (shown + GAP)
    assert 16 <= top <= 40
    first = drawn.crop((GAP, top, GAP + shown, top + shown))
    assert first == pictures(2, size)[0].resize((shown, shown), Image.Resampling.NEAREST)


def test_titles_are_on_white_and_inside():
    drawn = draw({"prompt": pictures(1), "hyperfitted greedy with a long title": pictures(1)})
    strip = drawn.crop((0, 0, drawn.width, drawn.height - LEAST_SIDE - GAP)).convert("L")
    assert strip.getextrema()[0] < 80
    for edge in ((0, 0, strip.width, 1), (0, 0, 1, strip.height), (strip.width - 1, 0, strip.width, strip.height)):
        assert strip.crop(edge).getextrema() == (255, 255)


def test_a_word_wider_than_its_picture_widens_the_column():
    assert draw({"incomprehensibilities": pictures(1)}).width > LEAST_SIDE + 2 * GAP


def measured(prompts, completions, width=3):
    return copying(torch.tensor([[99, *row] for row in prompts]), torch.tensor(completions), width)


def test_every_row_is_the_prompt_s_last():
    assert measured([[1, 2, 3]], [[1, 2, 3, 1, 2, 3]]) == {"rows_copied": 1.0, "codes_equal_above": 1.0}


def test_share_over_all_pictures():
    found = measured([[1, 2, 3], [1, 2, 3]], [[1, 2, 3, 4, 5, 6], [4, 2, 6, 4, 2, 6]])
    assert found["rows_copied"] == 2 / 4 and found["codes_equal_above"] == 7 / 12


def test_without_prompt_the_first_row_has_nothing_above():
    assert measured([[]], [[1, 2, 3, 1, 2, 3]]) == {"rows_copied": 1.0, "codes_equal_above": 1.0}


def test_rows_that_the_prompt_began_do_not_count():
    found = measured([[1, 2, 3, 1]], [[2, 3, 1, 2, 4]])
    assert found == {"rows_copied": 0.0, "codes_equal_above": 4 / 5}


def test_nothing_to_compare_is_nan():
    assert all(math.isnan(value) for value in measured([[]], [[1, 2]]).values())
