"""Lines are read with a limit, and counted right after a long one. Alone: pytest tests/storage/test_line_reader.py"""

import random

import pytest

from hypergen.errors import InputError
from hypergen.storage import line_reader
from hypergen.storage.line_reader import check_length, read_lines


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LONGEST_LINE": 10, "CHUNK": 4, "MOST_SKIPPED": 40}.items():
        monkeypatch.setattr(line_reader, name, value)


def written(folder, content):
    (folder / "a.txt").write_bytes(content)
    return folder / "a.txt"


def test_blank_lines_and_a_mark_are_left_out_and_counted(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbfone\r\n\n \t\ntwo\nthree")
    assert list(read_lines(path)) == [(1, 3, b"one\r\n"), (4, 12, b"two\n"), (5, 16, b"three")]
    assert list(read_lines(written(tmp_path, b""))) == []


@pytest.mark.parametrize("length", [9, 10, 11, 12, 14, 15, 40, 49])
def test_after_a_long_line_number_and_place_are_right(length, small, tmp_path):
    lines = list(read_lines(written(tmp_path, b"a\n" + b"x" * length + b"\nb\n")))
    assert lines[0] == (1, 0, b"a\n") and lines[2] == (3, length + 3, b"b\n")
    assert lines[1][2] == (b"x" * length + b"\n")[:11]


def test_a_long_line_is_refused_by_name(small):
    check_length("here", b"x" * 10)
    with pytest.raises(InputError, match=r"^here: is longer than 0 MiB$"):
        check_length("here", b"x" * 11)
    with pytest.raises(InputError, match=r"MiB and has NUL bytes$"):
        check_length("here", b"\0" * 11)


def test_an_endless_line_ends_the_reading(small, tmp_path):
    lines = read_lines(written(tmp_path, b"x" * 100 + b"\nb\n"))
    assert next(lines)[2] == b"x" * 11
    with pytest.raises(InputError, match=r"a\.txt:1: is longer than"):
        next(lines)


def test_short_lines_are_those_of_python(small, tmp_path):
    generator = random.Random(0)
    for _ in range(50):
        content = b"".join(b"y" * generator.randrange(9) + b"\n" for _ in range(generator.randrange(20)))
        expected = [line for line in content.splitlines(keepends=True) if not line.isspace()]
        assert [line for _, _, line in read_lines(written(tmp_path, content))] == expected
