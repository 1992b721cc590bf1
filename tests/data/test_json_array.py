"""Arrays of objects, an object at a time. Alone: pytest tests/data/test_json_array.py"""

import json
import random
import time

import pytest

from hypergen.data import json_array
from hypergen.data.json_array import index_json
from hypergen.errors import InputError
from hypergen.storage import line_reader
from tests.data.plain import content_of, counted, read, refuse, text


def rows(folder, content, field="text", skip=refuse):
    return read(index_json, folder / "a.json", content, field, skip)


@pytest.fixture(params=[2**20, 1, 7])
def chunk(request, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK", request.param)


def test_arrays(chunk, tmp_path):
    assert rows(tmp_path, b'\xef\xbb\xbf [ {"text": "a"} ,\n{"text": "b", "c": {"}": "]"}} ] \n') == ["a", "b"]
    assert rows(tmp_path, b'[{"text":"a"}]') == ["a"]
    assert rows(tmp_path, b" [ ] ") == []
    assert rows(tmp_path, json.dumps([{"data": {"text": "x"}}], indent=4).encode(), "data.text") == ["x"]


def test_one_object_a_line_is_read_as_such(tmp_path):
    assert rows(tmp_path, b'{"text": "a"}\n{"text": "b"}\n') == ["a", "b"]


def test_any_text_comes_back(chunk, tmp_path):
    generator = random.Random(0)
    letters = 'a"\\\n\t\r\u2028é\N{GRINNING FACE}\x07{}[],'
    texts = ["".join(generator.choices(letters, k=generator.randrange(30))) for _ in range(100)]
    content = json.dumps([{"n": [1, {}], "text": text} for text in texts], indent=generator.choice([None, 1]))
    assert rows(tmp_path, content.encode()) == texts


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'[{"text": "a"}, {"other": "secret"}]', ": row 2: has no field 'text' (--text-field); it has other"),
        (b'[{"text": "a"}, {"text": "\xff"}]', ": row 2: not UTF-8 at byte 26 of the file"),
        (b'[{"text": "a" "b"}]', ": row 1: is not JSON (Expecting ',' delimiter at character 14)"),
        (b'["secret"]', ": row 1: is not an object"),
        (b'[{"text": "a"} {"text": "b"}]', ": is not a JSON array of objects (',' missing at byte 15)"),
        (b'[{"text": "a"},]', ": row 2: is not an object"),
        (b'[{"text": "a"}', ": is not a JSON array of objects (',' missing at byte 14)"),
        (b'[{"text": "secret', ": row 1: the file ends inside it"),
        (b'[{"text": "a\\', ": row 1: the file ends inside it"),
        (b'[{"text": "a"}] {}', ": has more behind the end of its array, at byte 16"),
        (b"[" + b'{"a": ' * 65 + b"1" + b"}" * 65 + b"]", ": row 1: is nested deeper than 64"),
        (b'{\n "text": "a"\n}', ":1: is neither an array of objects nor one object a line (is not JSON (Expecting"),
        (b'"secret"', ":1: is neither an array of objects nor one object a line (is a string, not an object)"),
        (b'{"data": [{"text": "a"}]}', ":1: has no field 'text' (--text-field); it has data"),
    ],
)
def test_a_bad_file_is_one_line(content, reason, tmp_path):
    with pytest.raises(InputError) as error:
        rows(tmp_path, content)
    assert str(error.value).removeprefix(str(tmp_path / "a.json")).startswith(reason)
    assert "secret" not in str(error.value)


def test_a_bad_row_is_skipped_where_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(line_reader, "LONGEST_LINE", 40)  # which holds for an object as for a line
    errors = []
    content = b'[{"text": 3}, {"text": "a"}, {"b": [}, {"text": "' + b"x" * 50 + b'"}, {"text": "b"}]'
    assert rows(tmp_path, content, skip=errors.append) == ["a", "b"]
    assert [str(error).removeprefix(f"{tmp_path / 'a.json'}: ")[:16] for error in errors] == [
        "row 1: field 'te",
        "row 3: is not JS",
        "row 4: is longer",
    ]


ATTACKS = {
    "braces": b"[" + b"{" * 10**7,
    "strings": b"[{" + b'"",' * 5 * 10**6,
    "long": b'[{"text": "' + b"x" * (20 * 2**20),
    "spaces": b" " * (40 * 2**20),
    "escapes": b'[{"' + b"\\" * (8 * 2**20),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_costs_little(attack, tmp_path):
    started = time.process_time()
    with pytest.raises(InputError):
        rows(tmp_path, ATTACKS[attack])
    assert time.process_time() - started < 5


def test_an_object_is_read_alone(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(json.dumps([{"text": "a"}] * 500 + [{"text": "last"}]).encode())
    ranges = counted(monkeypatch)
    items = index_json(content_of(tmp_path / "a.json"), text(), refuse)
    assert not ranges and items[500] == "last" and ranges == [len(b'{"text": "last"}')]
