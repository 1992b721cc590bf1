"""Two doors, one picture: from files and from Python. Alone: pytest tests/image/test_rgb.py"""

import pytest
import torch
from PIL import Image

from hypergen.errors import InputError
from hypergen.image import sources
from hypergen.image.rgb import to_rgb
from tests.image.tiny import base, settings

WIDE = ("I", "F")  # how the modes with more than 8 bits a channel begin
KEPT = {  # modes that no file of `sources` has -> the one that stands for it there, without loss
    **dict.fromkeys(("HSV", "LAB", "RGBX", "YCbCr"), "RGB"),
    **dict.fromkeys(("PA", "RGBa"), "RGBA"),
    "La": "LA",
}
ORIENTATION = 0x0112  # of EXIF


def of_mode(mode: str, size: tuple[int, int] = (26, 20)) -> Image.Image:
    """A picture of any mode, with random bytes: no two of its pixels are alike, nor their transparency."""
    num_bytes = len(Image.new(mode, size).tobytes())
    noise = torch.randint(256, (num_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.frombytes(mode, size, noise.numpy().tobytes())
    if mode in ("P", "PA"):
        picture.putpalette([(37 * place) % 256 for place in range(768)])
    return picture


def through_both_doors(path, *given):
    """The ids of a file of `--data`, which must be those of the same file and of these pictures from Python."""
    modality = base("colors").with_settings(settings(codec="colors", prompt_fraction=0.99))
    (expected,) = modality.prompts(modality.encode(sources.read(str(path))))
    with Image.open(path) as opened:
        for picture in (opened, *given):
            assert modality.encode_prompt(picture).equal(expected), picture.mode
    return expected


@pytest.mark.parametrize("mode", [mode for mode in Image.MODES if not mode.startswith(WIDE)])
def test_a_picture_of_any_mode_has_the_ids_of_its_file(mode, tmp_path):
    picture = of_mode(mode)
    if mode == "CMYK":  # which only JPEG has, with a loss
        picture.save(tmp_path / "a.jpg")
        through_both_doors(tmp_path / "a.jpg")
        return
    picture.convert(KEPT.get(mode, mode)).save(tmp_path / "a.png")
    through_both_doors(tmp_path / "a.png", picture)


@pytest.mark.parametrize("mode", [mode for mode in Image.MODES if mode.startswith(WIDE)])
def test_more_bits_than_8_are_refused_at_both_doors(mode, tmp_path):
    picture = Image.new(mode, (4, 4))
    with pytest.raises(InputError, match=rf"^prompt 3: pixel format {mode}; allowed are 8 bits a channel$"):
        base("colors").encode_prompt(picture, number=3)
    if mode in ("I;16", "I;16B"):
        picture.save(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"a\.png: pixel format I\S*; allowed are 8 bits a channel$"):
            sources.read(str(tmp_path / "a.png"))[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_is_white_at_both_doors(mode, tmp_path):
    picture = Image.new("RGB", (26, 20), "red")
    picture.paste("blue", (13, 0, 26, 20))
    picture = picture.convert(mode)
    picture.save(tmp_path / "a.png", transparency=picture.getpixel((0, 0)))
    with Image.open(tmp_path / "a.png") as opened:
        assert to_rgb(opened).getpixel((0, 0)) == (255, 255, 255) != to_rgb(picture).getpixel((0, 0))
    through_both_doors(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_turned_picture_is_upright_at_both_doors(name, orientation, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    of_mode("RGB").save(tmp_path / name, exif=exif)
    turned = through_both_doors(tmp_path / name)
    of_mode("RGB").save(tmp_path / f"plain-{name}")
    assert turned.equal(through_both_doors(tmp_path / f"plain-{name}")) == (orientation == 1)


def test_a_damaged_picture_from_python_is_one_line(tmp_path):
    of_mode("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    said = pytest.raises(InputError, match=r"^prompt 2: damaged picture \(")
    with Image.open(tmp_path / "a.png") as opened, said as error:
        base("colors").encode_prompt(opened, number=2)
    assert "\n" not in str(error.value)


def test_a_picture_stays_as_it_is_and_is_not_copied_without_need():
    for mode in ("RGBA", "La", "P"):
        picture = of_mode(mode)
        before = (picture.mode, picture.tobytes())
        assert to_rgb(picture).mode == "RGB" and (picture.mode, picture.tobytes()) == before
    converted = to_rgb(picture)
    assert to_rgb(converted) is converted
