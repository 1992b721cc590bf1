"""The grid to look at. Alone: pytest tests/image/test_looks.py"""

import pytest
from PIL import Image

from hypergen.image.grid import GAP, LEAST_SIDE, draw
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
