"""Every error has the exit code that the README promises. Alone: pytest tests/test_errors.py"""

import inspect

import pytest

from hypergen import errors

CODES = {
    "InputError": 2,
    "CheckpointError": 3,
    "LockedError": 4,
    "NonFiniteError": 5,
    "DiskError": 6,
    "HypergenError": 1,
}


def test_each_error_has_its_own_code():
    kinds = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if name != "Interrupted"}
    assert {name: kind.exit_code for name, kind in kinds.items()} == CODES
    assert all(issubclass(kind, errors.HypergenError) for kind in kinds.values())


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_a_signal_gives_the_shell_s_code(number, code):
    error = errors.Interrupted(number, "stopped")
    assert (error.exit_code, str(error)) == (code, "stopped")
    assert errors.Interrupted(2, "a").exit_code != errors.Interrupted(15, "b").exit_code


def test_bad_input_is_a_value_error_for_python():
    with pytest.raises(ValueError, match="a line"):
        raise errors.InputError("a line")


@pytest.mark.parametrize(
    "word, said",
    [
        ("fti", "; did you mean fit?"),
        ("--lr", "; did you mean --learning-rate?"),
        ("--learn", "; did you mean --learning-rate?"),
        ("Top_P", "; did you mean top-p?"),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_a_typo_gets_a_suggestion(word, said):
    assert errors.did_you_mean(word, ["fit", "--learning-rate", "top-p", "--last-layers"]) == said
