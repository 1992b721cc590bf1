"""Items that are read when they are asked for. Alone: pytest tests/data/test_lazy.py"""

import pytest

from hypergen.data.lazy import Concatenated, Indexed, Subset
from hypergen.errors import InputError
from tests.data.plain import content_of, counted


@pytest.fixture
def letters(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one two three four")
    items = Indexed(content_of(tmp_path / "a.txt"), bytes.decode)
    for start, end in ((0, 3), (4, 7), (8, 13), (14, 18)):
        items.add(start, end)
    return items


def test_an_index_is_a_sequence(letters):
    assert len(letters) == 4 and list(letters) == ["one", "two", "three", "four"]
    assert letters[-1] == "four" and list(letters[1:3]) == ["two", "three"] and list(letters[::-2]) == ["four", "two"]
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            letters[wrong]


def test_only_the_bytes_of_an_item_are_read(letters, monkeypatch):
    ranges = counted(monkeypatch)
    part = letters[1:]
    assert not ranges
    assert part[1] == "three" and ranges == [5]


def test_parts_are_one_sequence(letters):
    joined = Concatenated([letters[:1], [], ["x", "y"], letters[2:]])
    assert list(joined) == ["one", "x", "y", "three", "four"] and len(joined) == 5
    assert joined[-2] == "three" and list(joined[1:4]) == ["x", "y", "three"]
    with pytest.raises(IndexError):
        joined[5]
    assert len(Concatenated([])) == 0 and list(Concatenated([])) == []


def test_a_subset_has_its_own_order(letters):
    subset = Subset(letters, [3, 0])
    assert list(subset) == ["four", "one"] and list(subset[1:]) == ["one"] and subset[-1] == "one"


def test_a_file_that_has_changed_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good")
    items = Indexed(content_of(path), bytes.decode)
    items.add(0, 4)
    path.write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InputError, match=r"a\.txt: has changed since it was opened \("):
        items[0]
    path.unlink()
    with pytest.raises(InputError, match=r"a\.txt: has changed since it was opened \("):
        items[0]
