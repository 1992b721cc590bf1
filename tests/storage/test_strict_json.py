"""A strict reader of untrusted JSON. Alone: pytest tests/storage/test_strict_json.py"""

import json
import math
import os
import time

import pytest

from hypergen.errors import InputError
from hypergen.storage import strict_json
from hypergen.storage.strict_json import kind_of, parse_object, read_limited, read_object, read_optional

BAD = {
    "NUL": (b'{"a": "\0"}', "has a NUL byte at byte 107 of the file"),
    "UTF-8": (b'{"a": "\xff"}', "not UTF-8 at byte 107 of the file"),
    "key twice": (b'{"a": 1, "a": 2}', "has a key twice"),
    "inner key twice": (b'{"a": {"b": 1, "b": 2}}', "has a key twice"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "array": (b"[1]", "is an array, not an object"),
    "null": (b"null", "is null, not an object"),
    "open": (b'{"a": "secret', "is not JSON (Unterminated string starting at character 7)"),
    "more": (b'{"a": 1} {}', "is not JSON (Extra data at character 10)"),
    "lines": (b'{"a": 1,\n"secret}', "is not JSON (Unterminated string starting at line 2, character 1)"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON that can be read (a number is too long)"),
    "depth": (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "is nested deeper than 64"),
    "values": (b'{"a": [' + b"1," * 100_001 + b"1]}", "has more than 100000 values"),
}


@pytest.mark.parametrize("content, reason", BAD.values(), ids=BAD.keys())
def test_bad_content_is_one_line_that_does_not_repeat_it(content, reason):
    with pytest.raises(InputError) as error:
        parse_object("here", content, 100)
    assert str(error.value) == f"here: {reason}"


def test_brackets_and_commas_inside_strings_do_not_count():
    content = json.dumps({"a": "[" * 99 + ',\\"' * 100_001}).encode()
    assert parse_object("here", content) == json.loads(content)


def test_the_deepest_and_the_most_that_is_allowed():
    deep = b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}"
    assert parse_object("here", deep) == json.loads(deep)
    rich = b'{"a": [' + b"1," * 99_998 + b"1]}"
    assert len(parse_object("here", rich)["a"]) == 99_999


def test_the_scan_is_linear_on_hostile_quotes():
    content = b"[" * 65 + b'"' + b'\\"' * 2_000_000
    started = time.perf_counter()
    with pytest.raises(InputError, match="nested deeper"):
        parse_object("here", content)
    assert time.perf_counter() - started < 2


def test_a_file_may_have_a_mark_in_front_and_numbers_of_configurations(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": NaN, "b": Infinity}')
    found = read_object(path)
    assert math.isnan(found["a"]) and found["b"] == math.inf


def test_a_file_that_is_not_there_is_none_or_refused(tmp_path):
    assert read_optional(tmp_path / "a.json") is None and read_optional(tmp_path) is None
    with pytest.raises(InputError, match=r"a.json: cannot be read \(No such file"):
        read_object(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"^--config: is not a file name$"):
        read_object(tmp_path / "nul\0", "--config")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_optional(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="is an array"):
        read_optional(tmp_path / "a.json")


def test_a_large_file_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(strict_json, "LARGEST_FILE", 2**20)
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**20)
    assert len(read_limited(tmp_path / "a.json", "here")) == 2**20
    with (tmp_path / "a.json").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"^here: is larger than 1 MiB$"):
        read_limited(tmp_path / "a.json", "here")


def test_types_are_named_as_in_json():
    values = [None, True, 1, 1.5, "a", [], {}]
    names = ["null", "a boolean", "a number", "a number", "a string", "an array", "an object"]
    assert list(map(kind_of, values)) == names


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json: is not a regular file"):
        read_object(tmp_path / "a.json")
