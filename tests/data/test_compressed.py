"""Files that are read as they are or unpacked. Alone: pytest tests/data/test_compressed.py"""

import bz2
import gc
import gzip
import lzma
import os
import random
import sys
from pathlib import Path

import pytest

from hypergen.data import compressed
from hypergen.data.compressed import Unpacker, compression_of, inner_suffix, unpacked_copy
from hypergen.errors import InputError
from hypergen.runtime import dependencies

try:
    import zstandard
except ImportError:
    zstandard = None

NEEDS_ZSTD = pytest.mark.skipif(zstandard is None, reason="needs zstandard")


def zstd(content):
    return zstandard.ZstdCompressor().compress(content)


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
KINDS = [pytest.param(suffix, marks=NEEDS_ZSTD if suffix == ".zst" else []) for suffix in PACK]
TEXT = random.Random(0).randbytes(300_000)  # longer than a frame's piece, and not to be compressed


def whole(content):
    with content.open() as file:
        return file.read(content.size)


@pytest.mark.parametrize("suffix", KINDS)
def test_what_was_packed_comes_back(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](TEXT))
    content = Unpacker().open(path)
    assert whole(content) == TEXT and content.size == len(TEXT) and content.name == str(path)
    assert content.read(1000, 1010) == TEXT[1000:1010]


@pytest.mark.parametrize("suffix", KINDS)
def test_several_streams_in_a_file_are_one(suffix, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(PACK[suffix](b"one ") + PACK[suffix](b"two"))
    assert whole(Unpacker().open(path)) == b"one two"


def test_the_first_bytes_tell_and_not_the_name(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(b"text"))
    assert compression_of(path) == "gzip" and whole(Unpacker().open(path)) == b"text"
    (tmp_path / "b.txt.gz").write_bytes(b"text")
    assert compression_of(tmp_path / "b.txt.gz") is None and whole(Unpacker().open(tmp_path / "b.txt.gz")) == b"text"


@pytest.mark.parametrize(
    "name, kind", {"a.JSONL.gz": ".jsonl", "a.TXT": ".txt", "a.gz": "", "a.b.csv.zst": ".csv"}.items()
)
def test_the_kind_is_in_the_name_below_the_compression(name, kind):
    assert inner_suffix(Path(name)) == kind


def test_files_share_one_temporary_file_that_ends_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed.tempfile, "tempdir", str(tmp_path))
    unpacker, contents = Unpacker(), []
    for name in "abc":
        (tmp_path / name).write_bytes(gzip.compress(name.encode() * 5))
        contents.append(unpacker.open(tmp_path / name))
    assert [content.read(1, 3) for content in contents] == [b"aa", b"bb", b"cc"]
    assert [whole(content) for content in contents] == [b"aaaaa", b"bbbbb", b"ccccc"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    spool = unpacker._spool
    del unpacker
    gc.collect()
    assert not spool.closed
    del contents
    gc.collect()
    assert spool.closed


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_one_line(suffix, damage, tmp_path):
    packed = PACK[suffix](b"some text " * 20 + os.urandom(1000))
    middle = len(packed) // 2
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed[:middle] if damage == "cut" else packed[:12] + bytes(40) + packed[52:])
    if suffix == ".zst" and damage == "changed":
        path.write_bytes(packed[:4] + b"\xff" * 20)
    with pytest.raises(InputError, match=r"cannot be unpacked \((gzip|bzip2|xz|zstd): ") as error:
        Unpacker().open(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_bomb_is_refused_while_it_is_unpacked(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "SMALL", 10**6)
    monkeypatch.setattr(compressed.tempfile, "tempdir", str(tmp_path))
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](bytes(10**7)))
    with pytest.raises(InputError, match=r"would unpack to more than 1,\d+,\d+ bytes, 100 times its size$"):
        Unpacker().open(path)
    path.write_bytes(PACK[suffix](bytes(10**6)))
    assert Unpacker().open(path).size == 10**6


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd and more")
    monkeypatch.setattr(dependencies, "is_installed", lambda module: False)
    with pytest.raises(
        InputError, match=r"zst: is compressed \(zstd\): needs zstandard \(pip install 'zstandard>=0\.22'\)$"
    ):
        Unpacker().open(tmp_path / "a.txt.zst")


def test_a_library_gets_a_copy_that_goes_again(tmp_path):
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(b"table"))
    with unpacked_copy(path) as (copy, folder):
        assert copy.name == "a.parquet" and copy.read_bytes() == b"table" and copy.parent == folder
    assert not folder.exists()
    (tmp_path / "b.parquet").write_bytes(b"table")
    with unpacked_copy(tmp_path / "b.parquet") as found:
        assert found == (tmp_path / "b.parquet", None)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_large_file_shows_its_progress(suffix, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compressed, "LARGE", 1000)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](TEXT) if suffix else TEXT)
    content = Unpacker().open(path)
    with content.scan() as file:
        assert file.read(5) == TEXT[:5] and file.tell() == 5
        file.seek(3)
        assert file.read() == TEXT[3:]
    shown = capsys.readouterr().err
    assert f"read {path}: " in shown and (f"unpack {path}: " in shown) == bool(suffix)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files as Linux does")
def test_a_folder_of_packed_files_needs_one_open_file(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    unpacker = Unpacker()
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(gzip.compress(b"x"))
    contents = [unpacker.open(path) for path in sorted(tmp_path.iterdir())]
    assert len(os.listdir("/proc/self/fd")) <= before + 2 and len(contents) == 20
