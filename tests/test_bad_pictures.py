"""Bad pictures are one line and exit 2, and nothing is written. Alone: pytest tests/test_bad_pictures.py"""

import pytest

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def picture_fit(refused, tmp_path):
    """A new base of the pictures in a folder, 16 of which are good."""
    pytest.importorskip("hypergen.image.modality")
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(16):
        Image.new("RGB", (32, 32), (number * 15, 99, 7)).save(tmp_path / "pictures" / f"{number}.png")
    common = ["pretrain", "--modality", "image", "--data", "pictures", "--output", "base", "--device", "cpu"]
    return lambda *arguments: refused(*common, *arguments)


def test_a_truncated_picture(picture_fit, tmp_path):
    path = tmp_path / "pictures" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    assert "3.png" in picture_fit()


def test_a_huge_picture(picture_fit, tmp_path):
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(tmp_path / "pictures" / "huge.png")
    assert "huge.png" in picture_fit()


def test_a_size_that_the_codec_does_not_divide(picture_fit):
    said = picture_fit("--image-size", "30")
    assert "30" in said and "4" in said


def test_no_pictures(picture_fit, tmp_path):
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    assert "pictures" in picture_fit()
