"""Bad pictures (matrix D2): one clear line and exit 2, or a defined
result; nothing is written, no traceback, no cost. Alone: pytest tests/faults/test_pictures.py"""

import io
import os
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from hypergen.errors import InputError
from hypergen.image import sources as pictures
from tests.faults.measured import LINUX, refusal
from tests.image import tiny as tiny_image

pytestmark = pytest.mark.usefixtures("offline")


def encoded(kind, picture=None, **options):
    stream = io.BytesIO()
    (picture or tiny_image.pictures(1, 64)[0]).save(stream, kind, **options)
    return stream.getvalue()


def png_of(width, height, content=b"\0"):
    """A PNG whose header says any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp_of(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


PNG, JPEG, WEBP = (encoded(kind) for kind in ("PNG", "JPEG", "WEBP"))
NOT_ALLOWED = "not a PNG, JPEG, WebP or BMP picture"
BAD_PICTURES = {
    "empty.png": (b"", "the file is empty"),
    **{f"cut{part}.png": (PNG[: len(PNG) * part // 6], "damaged picture") for part in range(1, 6)},
    **{f"cut{part}.jpg": (JPEG[: len(JPEG) * part // 6], "damaged picture|not a PNG") for part in range(1, 6)},
    "cut.webp": (WEBP[: len(WEBP) // 2], "damaged picture|not a PNG"),
    "signature.png": (PNG[:8], "damaged picture|not a PNG"),
    "checksum.png": (PNG[:29] + b"\0\0\0\0" + PNG[33:], "damaged picture|not a PNG"),
    "bomb.png": (png_of(30000, 30000), "30000 x 30000 pixels, more than the 64,000,000|more than the 64,000,000"),
    "bomb.bmp": (bmp_of(30000, 30000), "more than the 64,000,000"),
    "none.png": (png_of(0, 5), "damaged picture|not a PNG"),
    "animation.png": (encoded("GIF"), NOT_ALLOWED),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_ALLOWED),
    "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", NOT_ALLOWED),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_ALLOWED),
    "layers.bmp": (encoded("TIFF"), NOT_ALLOWED),
    "deep.png": (encoded("PNG", Image.new("I;16", (4, 4))), "8 bits a channel"),
    "page.png": (b"<html>secret</html>", NOT_ALLOWED),
}


@pytest.fixture
def picture_fit(refused, tmp_path):
    """The line that refuses a new base of the pictures in a folder, 4 of which are good."""
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(tiny_image.pictures(4, 32)):
        picture.save(tmp_path / "pictures" / f"good{number}.png")
    common = ["pretrain", "--modality", "image", "--data", "pictures", "--output", "base", "--device", "cpu"]
    return lambda *arguments: refused(*common, "--codec-steps", "1", "--steps", "1", *arguments)


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_d2_bad_picture(name, picture_fit, tmp_path):
    content, said = BAD_PICTURES[name]
    (tmp_path / "pictures" / name).write_bytes(content)
    line = picture_fit("--skip-bad", "0")
    assert re.search(said, line) and name in line and "secret" not in line


@pytest.mark.parametrize("name", ["loop.png", "broken.png", "pipe.png", "large.png"])
def test_d2_what_is_no_file(name, picture_fit, tmp_path):
    path = tmp_path / "pictures" / name
    if name == "pipe.png":
        os.mkfifo(path)
    elif name == "large.png":
        with path.open("wb") as file:
            file.truncate(2**32)
        with pytest.raises(InputError, match=r"large\.png: has 4,294,967,296 bytes; at most"):
            list(pictures.read("pictures"))
        return
    else:
        path.symlink_to(name if name == "loop.png" else "nowhere")
    assert name in picture_fit()


def test_d2_permission_denied(picture_fit, tmp_path, monkeypatch):
    """Root may read everything, so the refusal of the system is played."""
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == "good2.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"good2\.png: cannot be read \(Permission denied\)"):
        list(pictures.read("pictures"))


def test_d2_a_folder_named_as_a_picture_is_searched(tmp_path):
    (tmp_path / "x.png" / "y.jpg").mkdir(parents=True)
    (tmp_path / "x.png" / "y.jpg" / "z.png").write_bytes(PNG)
    (tmp_path / "x.png" / "up").symlink_to("..")  # links to folders are not followed
    assert len(pictures.read(str(tmp_path))) == len(pictures.read(str(tmp_path / "x.png"))) == 1


def turned():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    return encoded("JPEG", Image.new("RGB", (8, 4), "red"), exif=exif)


CLEAR = Image.new("P", (4, 4), 0)
CLEAR.putpalette([255, 0, 0, 0, 255, 0])
FRAMES = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
CONVERTED = {
    "grey": (encoded("PNG", Image.new("L", (4, 4), 9)), (4, 4), (9, 9, 9)),
    "bits": (encoded("PNG", Image.new("1", (4, 4), 1)), (4, 4), (255, 255, 255)),
    "CMYK": (encoded("JPEG", Image.new("CMYK", (8, 8), (0, 0, 0, 255))), (8, 8), (0, 0, 0)),
    "palette with a clear colour": (encoded("PNG", CLEAR, transparency=0), (4, 4), (255, 255, 255)),
    "alpha": (encoded("PNG", Image.new("RGBA", (4, 4), (255, 0, 0, 0))), (4, 4), (255, 255, 255)),
    "turned by EXIF": (turned(), (4, 8), (254, 0, 0)),
    "1 x 1": (encoded("PNG", Image.new("RGB", (1, 1), "blue")), (1, 1), (0, 0, 255)),
    "1 x 100000": (encoded("PNG", Image.new("RGB", (1, 100_000), "blue")), (1, 100_000), (0, 0, 255)),
    "animated PNG": (encoded("PNG", FRAMES[0], save_all=True, append_images=FRAMES[1:]), (5, 5), (255, 0, 0)),
    "animated WebP": (
        encoded("WEBP", FRAMES[0], save_all=True, append_images=FRAMES[1:], lossless=True),
        (5, 5),
        (255, 0, 0),
    ),
    "broken EXIF": (encoded("JPEG", FRAMES[0], exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), (5, 5), (254, 0, 0)),
    "wrong suffix": (encoded("BMP", FRAMES[1]), (5, 5), (0, 0, 255)),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_d2_picture_that_is_converted(name, tmp_path):
    content, size, colour = CONVERTED[name]
    (tmp_path / "a.png").write_bytes(content)
    (picture,) = pictures.read("a.png")
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", size, colour)
    tokens = tiny_image.base("colors").encode([picture])
    assert tokens.shape == (1, 257)


def test_d2_bad_pictures_are_passed_over_and_counted(tmp_path, capsys):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(PNG if number % 2 else PNG[:50])
    items = pictures.read(str(tmp_path), 3)
    assert len(items) == len(list(items)) == 3
    assert "bad items passed over: 3 (--skip-bad 3), the first is" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"4\.png: .* \(and 2 before it, --skip-bad 2\)$"):
        pictures.read(str(tmp_path), 2)
    for number in (1, 3, 5):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(InputError, match="none of 3 can be read"):
        pictures.read(str(tmp_path), 3)


@LINUX
@pytest.mark.parametrize("name", ["bomb.png", "bomb.bmp", "sparse.webp"])
def test_d2_size_attack(name, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.write(BAD_PICTURES[name][0] if name in BAD_PICTURES else b"RIFF\xff\xff\xff\x3fWEBPVP8L")
        file.truncate(max(file.tell(), 2**30 * name.startswith("sparse")))
    assert re.search("more than the 64,000,000|bytes; at most", refusal("image", tmp_path / name))


@LINUX
def test_d2_size_attack_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", bytes(200 * 2**20))
    assert "100 times its" in refusal("image", tmp_path / "a.zip")


def test_d2_a_size_that_the_codec_does_not_divide(picture_fit):
    assert "--image-size 30: must be a multiple of the codec's stride of 4 pixels" in picture_fit("--image-size", "30")


def test_d2_no_pictures(picture_fit, tmp_path):
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    assert "folder 'pictures': no picture in it" in picture_fit()


@pytest.mark.parametrize("kind", [*pictures.FORMATS, "palette"])
@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.faults)])
def test_d2_changed_bytes(kind, count):
    """Whatever a decoder meets, it is a picture or one line."""
    picture = tiny_image.pictures(1, 24)[0]
    content = encoded("PNG", picture.convert("P"), transparency=3) if kind == "palette" else encoded(kind, picture)
    generator, refused = random.Random(0), 0
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 2, 16])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        del changed[generator.choice([len(changed), generator.randrange(len(changed))]) :]
        try:
            assert pictures.open_picture(io.BytesIO(changed), "x").mode == "RGB"
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > count / 4
