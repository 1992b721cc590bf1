"""Every error has the exit code that the README promises, and the words of the interface that was used.

Alone: pytest tests/test_errors.py
"""

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
    classes = inspect.getmembers(errors, inspect.isclass)
    kinds = {name: kind for name, kind in classes if issubclass(kind, errors.HypergenError)}
    assert {name: kind.exit_code for name, kind in kinds.items()} == CODES
    assert [name for name, kind in classes if issubclass(kind, BaseException) and name not in kinds] == ["Interrupted"]


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_a_signal_gives_the_shell_s_code(number, code):
    error = errors.Interrupted(number, "stopped")
    assert (error.exit_code, str(error)) == (code, "stopped")
    assert errors.Interrupted(2, "a").exit_code != errors.Interrupted(15, "b").exit_code


def test_a_signal_ends_a_sweep_that_goes_on_after_failures():
    with pytest.raises(KeyboardInterrupt):
        try:
            raise errors.Interrupted(2, "stopped by signal 2")
        except Exception:
            pytest.fail("taken for a failure")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("--epochs 0: must be a whole number, 1 or more", "epochs 0: must be a whole number, 1 or more"),
        ("--max-new-tokens 9 and --no-stop-at-end", "max_new_tokens 9 and stop_at_end=False"),
        ("a: needs x (pip install --no-deps 'x>=2')", "a: needs x (pip install --no-deps 'x>=2')"),
        ("after step 3; --resume continues", "after step 3; resume=True continues"),
        ("runs/a--b: no such folder", "runs/a--b: no such folder"),
    ],
)
def test_an_option_has_the_name_that_it_has_in_the_interface(line, expected):
    @errors.in_keywords()
    def fail():
        raise errors.InputError(line)

    with pytest.raises(errors.InputError) as error:
        fail()
    assert str(error.value) == expected
    with errors.in_flags(), pytest.raises(errors.InputError) as error:
        fail()
    assert str(error.value) == line


def test_a_failure_of_the_command_line_leaves_python_its_own_words():
    with pytest.raises(KeyError), errors.in_flags():
        raise KeyError
    with pytest.raises(errors.InputError, match=r"^epochs$"), errors.in_keywords():
        raise errors.InputError("--epochs")


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
