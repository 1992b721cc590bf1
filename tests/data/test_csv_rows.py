"""Comma-separated values, where a cell may hold a novel. Alone: pytest tests/data/test_csv_rows.py"""

import csv
import io
import random

import pytest

from hypergen.data.csv_rows import index_csv
from hypergen.errors import InputError
from hypergen.storage import line_reader
from tests.data.plain import content_of, counted, read, refuse, text


def rows(folder, content, field="text", skip=refuse):
    return read(index_csv, folder / "a.csv", content, field, skip)


def test_cells_are_text_as_they_stand(tmp_path):
    content = b'\xef\xbb\xbfid,text\r\n1,NA\r\n\r\n2,"two\nlines, ""quoted"""\r\n3,007\n4,\n5,2020-01-01'
    assert rows(tmp_path, content) == ["NA", 'two\nlines, "quoted"', "007", "", "2020-01-01"]
    assert rows(tmp_path, b"data.text\nx\n", "data.text") == ["x"]
    assert rows(tmp_path, b"text\n") == []


def test_any_text_comes_back(tmp_path):
    generator = random.Random(0)
    letters = 'a"\\\n\t\r\u2028é\N{GRINNING FACE},;'
    texts = ["".join(generator.choices(letters, k=generator.randrange(1, 30))) for _ in range(200)]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["n", "text"], *enumerate(texts)])
    found = rows(tmp_path, file.getvalue().encode())
    assert [one.replace("\r\n", "\n") for one in found] == [one.replace("\r\n", "\n") for one in texts]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"a,b\n1,2\n", ":2: has no field 'text' (--text-field); it has a, b"),
        (b"a;text\n1;2\n", ":2: has no field 'text' (--text-field); it has a;text"),
        (b"text,text\n1,2\n", ":1: has a column twice"),
        (b"a,text\n1,2\n1,secret,3\n", ":3: has 3 cells, the header 2"),
        (b'a,text\n1,"secret\n', ":2: is not CSV (unexpected end of data)"),
        (b'a,text\n1,"a"b\n', ":2: is not CSV (',' expected after '\"')"),
        (b'a,text\n1,"a\nb"\n2,\xff\n', ":4: not UTF-8 at byte 17 of the file"),
        (b"a,text\n1,a\0b\n", ":2: field 'text' has a NUL character"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(content, reason, tmp_path):
    with pytest.raises(InputError) as error:
        rows(tmp_path, content)
    assert str(error.value).removeprefix(str(tmp_path / "a.csv")) == reason


def test_a_bad_row_is_skipped_where_it_may_be(tmp_path):
    errors = []
    content = b'a,text\n1\n2,b\n3,\xff\n4,"d"d\n5,"e\ne"\n'
    assert rows(tmp_path, content, skip=errors.append) == ["b", "e\ne"]
    assert [str(error).removeprefix(str(tmp_path)).split(":")[1] for error in errors] == ["2", "4", "5"]


def test_a_cell_may_be_long_and_the_limit_of_the_process_stays(tmp_path, monkeypatch):
    before = csv.field_size_limit()
    novel = "word " * 100_000
    assert rows(tmp_path, f'text\n"{novel}"\n'.encode()) == [novel]
    monkeypatch.setattr(line_reader, "LONGEST_LINE", 1000)
    with pytest.raises(InputError, match="2: is longer than"):
        rows(tmp_path, b"text\n" + b"x" * 2000)
    assert csv.field_size_limit() == before


def test_a_row_is_read_alone(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_bytes(b"n,text\n" + b"1,a\n" * 500 + b'2,"two\nlines"\n' + b"1,a\n" * 500)
    ranges = counted(monkeypatch)
    items = index_csv(content_of(tmp_path / "a.csv"), text(), refuse)
    assert not ranges and items[500] == "two\nlines" and ranges == [len(b'2,"two\nlines"\n')]
