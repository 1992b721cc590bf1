"""A budget of bad items. Alone: pytest tests/data/test_bad_rows.py"""

import pytest

from hypergen.data.bad_rows import skip_bad_rows
from hypergen.errors import InputError


def skip_all(allowed, num_bad):
    with skip_bad_rows("a.jsonl", allowed) as skip:
        for number in range(1, num_bad + 1):
            skip(InputError(f"a.jsonl:{number}: is bad"))


def test_without_a_budget_the_first_error_is_the_end(capsys):
    with pytest.raises(InputError, match=r"^a\.jsonl:1: is bad$"):
        skip_all(0, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("num_bad", [1, 2, 3])
def test_a_budget_is_counted_and_told_in_one_line(num_bad, capsys):
    skip_all(3, num_bad)
    count = f"bad items passed over: {num_bad} (--skip-bad 3)"
    assert capsys.readouterr().err == f"hypergen: a.jsonl: {count}, the first is a.jsonl:1: is bad\n"


def test_one_more_than_the_budget_says_how_many_came_before(capsys):
    with pytest.raises(InputError, match=r"^a\.jsonl:3: is bad \(and 2 before it, --skip-bad 2\)$"):
        skip_all(2, 3)
    assert capsys.readouterr().err == ""


def test_a_good_source_says_nothing(capsys):
    skip_all(2, 0)
    assert capsys.readouterr().err == ""


def test_other_errors_pass_without_a_count(capsys):
    with pytest.raises(KeyError), skip_bad_rows("a.jsonl", 2) as skip:
        skip(InputError("bad"))
        raise KeyError
    assert capsys.readouterr().err == ""
