"""The grid to look at. Alone: pytest tests/image/test_picture_grid.py"""

import base64
import io
import re

import pytest
from PIL import Image, ImageChops

from hypergen.image.picture_grid import FRAME, GAP, LEAST_SIDE, SHOWN_WIDTH, PictureFigure, draw_picture_grid
from tests.image.tiny import pictures


@pytest.mark.parametrize(("size", "shown"), [(8, 96), (32, 96), (40, 120), (96, 96), (200, 200)])
def test_pictures_are_enlarged_by_whole_factors(size, shown):
    drawn = draw_picture_grid({"a": pictures(2, size), "b": pictures(2, size)})
    assert drawn.width == 2 * shown + 3 * GAP
    top = drawn.height - 2 * (shown + GAP)
    assert 16 <= top <= 40
    first = drawn.crop((GAP, top, GAP + shown, top + shown))
    assert first == pictures(2, size)[0].resize((shown, shown), Image.Resampling.NEAREST)


def test_titles_are_on_white_and_inside():
    drawn = draw_picture_grid({"prompt": pictures(1), "hyperfitted greedy with a long title": pictures(1)})
    strip = drawn.crop((0, 0, drawn.width, drawn.height - LEAST_SIDE - GAP)).convert("L")
    assert strip.getextrema()[0] < 80
    for edge in ((0, 0, strip.width, 1), (0, 0, 1, strip.height), (strip.width - 1, 0, strip.width, strip.height)):
        assert strip.crop(edge).getextrema() == (255, 255)


def test_a_word_wider_than_its_picture_widens_the_column():
    assert draw_picture_grid({"incomprehensibilities": pictures(1)}).width > LEAST_SIDE + 2 * GAP


@pytest.mark.parametrize(("width", "factor"), [(100, 7), (380, 2), (381, 1), (SHOWN_WIDTH, 1), (2000, 1)])
def test_a_figure_is_enlarged_on_a_page_by_a_whole_factor(width, factor):
    picture = Image.effect_noise((width, 9), 50).convert("RGB")
    shown = re.fullmatch(
        r'<img width="(\d+)" height="(\d+)" alt="[^"]+" src="data:image/png;base64,([^"]+)">',
        PictureFigure(picture).html(),
    )
    assert (int(shown[1]), int(shown[2])) == (factor * width, factor * 9)
    again = Image.open(io.BytesIO(base64.b64decode(shown[3])))
    assert again.format == "PNG" and again.tobytes() == picture.tobytes()


def test_a_figure_is_one_file(tmp_path):
    picture = draw_picture_grid({"a": pictures(2)})
    assert PictureFigure(picture).save(tmp_path) == [tmp_path / "grid.png"] == list(tmp_path.iterdir())
    assert Image.open(tmp_path / "grid.png").tobytes() == picture.tobytes()


def test_a_figure_shows_itself_in_a_notebook():
    figure = PictureFigure(draw_picture_grid({"a": pictures(1)}))
    assert figure._repr_html_() == figure.html()


def test_what_is_recited_has_a_frame_and_a_legend():
    columns = {"a": pictures(2), "b": pictures(2)}
    plain, framed = draw_picture_grid(columns), draw_picture_grid(columns, framed={"b": [1], "a": []})
    assert framed.width == plain.width and framed.height > plain.height
    changed = ImageChops.difference(plain, framed.crop((0, 0, *plain.size))).getbbox()
    left, top = LEAST_SIDE + 2 * GAP, plain.height - LEAST_SIDE - GAP  # of the second picture in the second column
    assert changed == (left - FRAME, top - FRAME, left + LEAST_SIDE + FRAME, top + LEAST_SIDE + FRAME)
    assert draw_picture_grid(columns, framed={"b": []}).tobytes() == plain.tobytes()
