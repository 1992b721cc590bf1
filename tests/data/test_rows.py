"""The text of a row, by name or path. Alone: pytest tests/data/test_rows.py"""

import pytest

from hypergen.data.rows import LONGEST_NAME, MOST_NAMES, no_field, text_of, value_of
from hypergen.errors import InputError


def test_a_field_by_its_name_or_a_dotted_path():
    row = {"text": "a", "data": {"text": "b", "more": {"text": "c"}}, "data.text": "whole name"}
    assert text_of("row 1", row, "text") == "a"
    assert text_of("row 1", row, "data.more.text") == "c"
    assert text_of("row 1", row, "data.text") == "whole name"
    del row["data.text"]
    assert text_of("row 1", row, "data.text") == "b"


@pytest.mark.parametrize("field", ["text", "data.txt", "data.id.text", "n.text", "data.", ".", "data..id"])
def test_what_is_missing_is_named_with_what_is_there(field):
    with pytest.raises(InputError) as error:
        text_of("a.jsonl:3", {"n": 1, "data": {"id": 7, "body": "secret"}, "empty": {}}, field)
    there = "n, data.id, data.body, empty"
    assert str(error.value) == f"a.jsonl:3: has no field '{field}' (--text-field); it has {there}"


def test_names_are_few_short_and_harmless():
    assert no_field("x", {}, "text").endswith("; it has none")
    said = no_field("x", {f"{number}" * 99: 0 for number in range(99)}, "text")
    assert said.endswith(", ...") and len(said) < 60 + MOST_NAMES * (LONGEST_NAME + 2)
    assert "\x1b" not in no_field("x", {"a\x1b[31m\nb": 0}, "text") and "\n" not in no_field("x", {"a\nb": 0}, "text")


@pytest.mark.parametrize(
    "value, reason",
    [
        (3, "is a number, not a string"),
        (float("nan"), "is a number, not a string"),
        (None, "is null, not a string"),
        ("a\0b", "has a NUL character"),
        ("\ud800", "has half of a surrogate pair"),
    ],
)
def test_what_is_no_text(value, reason):
    with pytest.raises(InputError, match=rf"^row 1: field 'n' {reason}$"):
        text_of("row 1", {"n": value}, "n")


def test_the_value_of_a_field_may_be_of_any_type():
    assert (
        value_of("x", {"data": {"messages": [1]}}, "data.messages") == [1] and value_of("x", {"n": None}, "n") is None
    )
    with pytest.raises(InputError, match=r"^x: has no field 'm' \(--text-field\); it has n$"):
        value_of("x", {"n": None}, "m")
