"""Rows of JSON Lines, and every way in which one can be wrong. Alone: pytest tests/data/test_jsonl.py"""

import json
import random

import pytest

from hypergen.data.jsonl import index_rows, row_of
from hypergen.errors import InputError
from hypergen.storage import line_reader
from tests.data.plain import content_of, counted, read, refuse, text


def rows(folder, content, field="text", skip=refuse):
    return read(index_rows, folder / "a.jsonl", content, field, skip)


def test_texts_come_in_order_and_blank_lines_are_left_out(tmp_path):
    content = b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"n": [1], "text": "tw\\u00f6\\nlines"}\n{"text": ""}'
    assert rows(tmp_path, content) == ["one", "twö\nlines", ""]
    assert rows(tmp_path, b'{"story": "x", "text": 3}\n', "story") == ["x"]
    assert rows(tmp_path, b'{"data": {"text": "x"}}\n', "data.text") == ["x"]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'  {"text": "\xff"}', "not UTF-8 at byte 29 of the file"),
        (b"[1]", "is an array, not an object"),
        (b'{"other": "secret"}', "has no field 'text' (--text-field); it has other"),
        (b'{"text": null}', "field 'text' is null, not a string"),
        (b'{"text": ["secret"]}', "field 'text' is an array, not a string"),
        (b'{"text": NaN}', "field 'text' is a number, not a string"),
        (b'{"text": "a\\u0000b"}', "field 'text' has a NUL character"),
        (b'{"text": "\\ud800"}', "field 'text' has half of a surrogate pair"),
        (b'{"text": "a", "text": "b"}', "has a key twice"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(line, reason, tmp_path):
    with pytest.raises(InputError) as error:
        rows(tmp_path, b'{"text": "good"}\n' + line)
    assert str(error.value) == f"{tmp_path / 'a.jsonl'}:2: {reason}"


def test_what_is_not_the_text_may_be_no_number(tmp_path):
    assert rows(tmp_path, b'{"text": "a", "score": NaN, "n": [-Infinity]}') == ["a"]


def test_a_bad_row_is_skipped_where_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(line_reader, "LONGEST_LINE", 40)
    errors = []
    content = b'[1]\n{"text": "a"}\n' + b"x" * 99 + b'\n{"text": "b"}\n{'
    assert rows(tmp_path, content, skip=errors.append) == ["a", "b"]
    assert [str(error).removeprefix(str(tmp_path)).split(":")[1] for error in errors] == ["1", "3", "5"]


def test_any_text_comes_back(tmp_path):
    generator = random.Random(0)
    letters = 'a"\\\n\t\r\u2028é\N{GRINNING FACE}\x07{}[],'
    texts = ["".join(generator.choices(letters, k=generator.randrange(30))) for _ in range(200)]
    lines = [json.dumps({"text": text}, ensure_ascii=generator.random() < 0.5) for text in texts]
    assert rows(tmp_path, "\n".join(lines).encode()) == texts


def test_a_row_is_read_alone(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 1000 + b'{"text": "last"}\n' + b'{"text": "a"}\n' * 1000)
    ranges = counted(monkeypatch)
    items = index_rows(content_of(tmp_path / "a.jsonl"), text(), refuse)
    assert len(items) == 2001 and not ranges
    assert items[1000] == "last" and ranges == [len(b'{"text": "last"}\n')]


def test_a_row_is_parsed_strictly():
    assert row_of("x", b' {"a": NaN} \n', 0).keys() == {"a"}
    with pytest.raises(InputError, match=r"^x: is an array, not an object$"):
        row_of("x", b"[]", 0)
