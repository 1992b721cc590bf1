"""Sources of pictures, above all bad ones. Alone: pytest tests/image/test_sources.py"""

import io
import struct
import sys
import zipfile
import zlib
from types import SimpleNamespace
from typing import ClassVar

import pytest
from PIL import Image

from hypergen.data import hub
from hypergen.errors import InputError
from hypergen.image import sources
from tests.image.tiny import pictures


def encoded(kind, picture=None):
    stream = io.BytesIO()
    (picture or pictures(1, 64)[0]).save(stream, kind)
    return stream.getvalue()


def bomb_header():
    """A PNG that says 30000 x 30000 and has one byte of pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BAD = {
    "empty.png": (b"", "empty"),
    "text.jpg": (b"hello, this is not a picture", "not a PNG, JPEG, WebP or BMP"),
    "truncated.jpg": (encoded("JPEG")[:-200], "damaged"),
    "truncated.png": (encoded("PNG")[:-200], "damaged"),
    "bomb.png": (bomb_header(), "pixels"),
    "gif.png": (encoded("GIF"), "not a PNG, JPEG, WebP or BMP"),
    "deep.png": (encoded("PNG", Image.new("I;16", (4, 4))), "8 bits"),
}


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def check_one_line(call, expected, name):
    with pytest.raises(InputError, match=expected) as error:
        call()
    assert "\n" not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_file_in_a_folder(name, tmp_path):
    content, expected = BAD[name]
    (tmp_path / name).write_bytes(content)
    items = sources.read(str(tmp_path))
    check_one_line(lambda: items[0], expected, name)


@pytest.mark.parametrize("name", BAD)
def test_bad_member_of_a_zip(name, tmp_path):
    content, expected = BAD[name]
    items = sources.read(zipped(tmp_path / "a.zip", {name: content}))
    check_one_line(lambda: items[0], expected, name)


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
def test_zip_that_wants_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    source = zipped(folder / "a.zip", {"good.png": encoded("PNG"), name: encoded("PNG")})
    check_one_line(lambda: sources.read(source), "not allowed", "evil.png")
    assert not list(tmp_path.rglob("evil.png"))


def test_zip_with_a_link(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    check_one_line(lambda: sources.read(str(tmp_path / "a.zip")), "symbolic link", "link.png")


def test_damaged_zips(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and nothing more")
    check_one_line(lambda: sources.read(str(tmp_path / "a.zip")), "cannot be read", "a.zip")
    content = encoded("PNG")
    zipped(tmp_path / "b.zip", {"a.png": content})
    whole = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(whole.replace(content[50:80], bytes(30)))
    items = sources.read(str(tmp_path / "b.zip"))
    check_one_line(lambda: items[0], "cannot be read", "a.png")


def test_folder_is_read_in_order_and_lazily(tmp_path):
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(["b.png", "sub/a.BMP", "c.webp", ".hidden.png", "notes.txt"]):
        kind = {"webp": "WEBP", "BMP": "BMP"}.get(name.rsplit(".", 1)[1], "PNG")
        (tmp_path / name).write_bytes(encoded(kind, Image.new("RGB", (4 + number, 4))))
    items = sources.read(str(tmp_path))
    assert [picture.width for picture in items] == [4, 6, 5]
    assert [picture.width for picture in items[1:]] == [6, 5]


def test_zip_is_read_in_order(tmp_path):
    members = {f"{n}.png": encoded("PNG", Image.new("RGB", (5 + n, 3))) for n in (2, 0, 1)}
    items = sources.read(zipped(tmp_path / "a.zip", members | {"__MACOSX/0.png": b"", "readme.txt": b"x"}))
    assert [picture.width for picture in items] == [5, 6, 7]


@pytest.mark.parametrize("source", ["nothing", "cifar10:half"])
def test_no_such_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_one_line(lambda: sources.read(source), "pictures '", source)


def test_sources_without_pictures(tmp_path):
    check_one_line(lambda: sources.read(str(tmp_path)), "no picture in it", tmp_path.name)
    (tmp_path / "a.txt").write_text("x")
    check_one_line(lambda: sources.read(str(tmp_path / "a.txt")), "not a picture by its name", "a.txt")
    check_one_line(lambda: sources.read(zipped(tmp_path / "a.zip", {"a.txt": b""})), "no picture in it", "a.zip")


def test_transparent_grey_and_turned_pictures():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert sources.open_picture(io.BytesIO(encoded("PNG", clear)), "x").getcolors() == [(16, (255, 255, 255))]
    grey = Image.new("L", (4, 4), 9)
    assert sources.open_picture(io.BytesIO(encoded("PNG", grey)), "x").getpixel((0, 0)) == (9, 9, 9)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(stream, "JPEG", exif=exif)
    assert sources.open_picture(stream, "x").size == (4, 8)


def test_cifar10_offline_names_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_one_line(lambda: sources.read("cifar10"), "not downloaded", str(tmp_path))


def test_hub_pictures(monkeypatch):
    """The column of pictures is found by its type, and decoded here."""

    class ImageColumn:
        def __init__(self, decode=True):
            self.decode = decode

    class Rows(list):
        features: ClassVar = {"label": int, "photo": ImageColumn()}

        def cast_column(self, name, kind):
            assert name == "photo" and not kind.decode
            return self

    content = [encoded("PNG", Image.new("RGB", (5, 4))), None, b"no picture"]
    rows = Rows({"photo": part and {"bytes": part, "path": None}} for part in content)
    library = SimpleNamespace(Image=ImageColumn, load_dataset=lambda name, *, split, streaming: rows)
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    items = sources.read("hub:a/b:test")
    assert len(items) == 3 and items[0].size == (5, 4)
    check_one_line(lambda: items[1], "no picture", "hub:a/b:test, row 1")
    check_one_line(lambda: items[2], "not a PNG", "hub:a/b:test, row 2")
    monkeypatch.setattr(Rows, "features", {"label": int})
    check_one_line(lambda: sources.read("hub:a/b"), "no picture column among label", "hub:a/b")
