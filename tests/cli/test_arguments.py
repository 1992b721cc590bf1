"""`--config FILE` gives flags, and what is typed wins. Alone: pytest tests/cli/test_arguments.py"""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from hypergen.cli.arguments import options_of, read
from hypergen.cli.commands import parse
from hypergen.config import FitConfig
from hypergen.errors import InputError


def config_file(folder, content, name="options.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


VALUES = {"epochs": 3, "learning_rate": 1e-4, "data": "a b.txt", "resume": True, "output": None, "prompt_length": 7}


@pytest.mark.parametrize("form", ["json", "toml", "kebab"])
def test_a_file_gives_flags(form, tmp_path):
    content = {name.replace("_", "-") if form == "kebab" else name: value for name, value in VALUES.items()}
    if form == "toml":
        content = 'epochs = 3\nlearning_rate = 1e-4\ndata = "a b.txt"\nresume = true\nprompt_length = 7\n'
    path = config_file(tmp_path, content, "options.toml" if form == "toml" else "options.json")
    command = parse(["fit", "--config", path])
    assert command.fit == FitConfig(epochs=3, learning_rate=1e-4, data="a b.txt", resume=True)
    assert command.settings == {"prompt_length": 7}


def test_what_is_typed_wins(tmp_path):
    path = config_file(tmp_path, {"epochs": 3, "num_samples": 9, "resume": True, "seed": 5})
    for arguments in (["--config", path, "--epochs", "4"], ["--epochs=4", f"--config={path}"]):
        command = parse(["fit", *arguments, "--num_samples", "8", "--no-resume"])
        assert command.fit == FitConfig(epochs=4, num_samples=8, seed=5)


def test_false_lists_and_values_that_look_like_flags(tmp_path):
    path = config_file(tmp_path, {"stop_at_end": False, "prompt": ["one two", "three"], "output": "--odd"})
    command = parse(["generate", "RUN", "--config", path])
    assert command.decoding.stop_at_end is False
    assert (command.generate.prompt, command.generate.output) == (("one two", "three"), "--odd")


@pytest.mark.parametrize(
    "content, said",
    [
        ({"epoch": 3}, "--epoch: unknown option of fit; did you mean --epochs?"),
        ({"strategy": "greedy"}, "--strategy: unknown option of fit"),
        ({"epochs": {"a": 1}}, "--config: epochs must be one value or a list"),
        ({"epochs": "many"}, "--epochs 'many': must be a whole number"),
        ({"epochs": 0}, "--epochs 0: must be a whole number, 1 or more"),
        ([1], "is an array, not an object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is nested deeper than 64"),
        ("", "is not JSON"),
    ],
)
def test_a_bad_file_is_refused(content, said, tmp_path):
    with pytest.raises(InputError) as error:
        parse(["fit", "--config", config_file(tmp_path, content)])
    assert said in str(error.value)


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "nowhere.json"], ["--config", "."]])
def test_no_file(arguments):
    with pytest.raises(InputError, match=r"^--config"):
        parse(["fit", *arguments])


def test_two_files_and_bad_toml_are_refused(tmp_path):
    one = config_file(tmp_path, {})
    with pytest.raises(InputError, match=r"needs one .json or .toml file"):
        parse(["fit", "--config", one, "--config", one])
    with pytest.raises(InputError, match="is not TOML"):
        parse(["fit", "--config", config_file(tmp_path, "epochs: 3", "a.toml")])


@dataclass(frozen=True)
class Options:
    epochs: int = 3
    rate: float | None = None
    resume: bool = False
    prompt: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()
    strategy: Literal["greedy", "top-p"] = "greedy"


KNOWN = options_of(Options)


def values_of(*arguments):
    return read("fit", arguments, KNOWN)[1]


def test_a_field_becomes_an_option_by_its_type():
    takes = {name: option.takes for name, option in KNOWN.items()}
    assert takes == {
        **{"--epochs": "one", "--rate": "one", "--strategy": "one", "--resume": "nothing"},
        **{"--prompt": "several", "--alphas": "several"},
    }
    typed = ["--epochs=4", "--rate", "1e-3", "--no-resume", "--alphas", ".5", "1", "--strategy", "top-p"]
    assert values_of(*typed) == {
        **{"--epochs": 4, "--rate": 1e-3, "--resume": False, "--alphas": (0.5, 1.0), "--strategy": "top-p"}
    }


def test_words_that_belong_to_no_option_are_kept_apart():
    assert read("fit", ["a", "--resume", "b", "--epochs", "3", "-", "-h"], KNOWN) == (
        ["a", "b", "-", "-h"],
        {"--resume": True, "--epochs": 3},
    )


WRONG = {
    "--epochs 1.5": "--epochs '1.5': must be a whole number",
    "--rate fast": "--rate 'fast': must be a number",
    "--strategy topp": "--strategy 'topp': must be greedy or top-p; did you mean top-p?",
    "--epochs": "'--epochs': needs a value",
    "--prompt": "'--prompt': needs a value",
    "--resume=yes": "--resume: takes no value; --no-resume switches it off",
    "--epoch 3": "--epoch: unknown option of fit; did you mean --epochs?",
    "--no-epochs 3": "--no-epochs: unknown option of fit; did you mean --epochs?",
    "--strat greedy": "--strat: unknown option of fit; did you mean --strategy?",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_wrong_is_one_line(typed):
    with pytest.raises(InputError) as error:
        values_of(*typed.split())
    assert str(error.value) == WRONG[typed]


def test_an_empty_value_is_refused_but_an_empty_prompt_is_a_prompt():
    with pytest.raises(InputError, match=r"^--data: is empty; leave it out for its default$"):
        parse(["fit", "--data", ""])
    assert values_of("--prompt", "", "a") == {"--prompt": ("", "a")}


def test_an_option_given_twice_joins_its_values_or_is_refused():
    typed = ["a", "--prompt", "b", "c", "--resume", "--prompt=d", "--epochs", "3", "--prompt", "e"]
    assert read("x", typed, KNOWN) == (["a"], {"--prompt": ("b", "c", "d", "e"), "--resume": True, "--epochs": 3})
    for twice, takes in ((["--epochs", "3", "--epochs=3"], "one value"), (["--resume", "--no-resume"], "nothing")):
        with pytest.raises(InputError, match=rf"^{twice[0]}: is given twice; it takes {takes}$"):
            values_of(*twice)


LOOKS_LIKE_AN_OPTION = ["--- chapter", "-- he said", "--", "-x", "- no", "-5 degrees", "--three words--", "---"]


@pytest.mark.parametrize("value", LOOKS_LIKE_AN_OPTION)
@pytest.mark.parametrize("written", ["apart", "joined"])
def test_a_value_that_looks_like_an_option_is_taken_as_the_value(value, written):
    for name, field in (("--prompt", "prompt"), ("--output", "output")):
        typed = [name, value] if written == "apart" else [f"{name}={value}"]
        generate = parse(["generate", "RUN", "--seed", "3", *typed, "--json"]).generate
        assert getattr(generate, field) == ((value,) if field == "prompt" else value) and generate.json
    assert parse(["fit", "--data", value]).fit.data == value


def test_a_value_that_could_be_an_option_is_given_with_an_equals_sign():
    hints = r"did you mean --chat\?; as a value of --prompt it is written --prompt=--chapter$"
    with pytest.raises(InputError, match=rf"^--chapter: unknown option of generate; {hints}"):
        parse(["generate", "RUN", "--prompt", "--chapter"])
    with pytest.raises(InputError, match=r"^--verbose: unknown option of generate$"):
        parse(["generate", "RUN", "--seed=1", "--prompt", "a", "--verbose"])
    typed = ["--prompt=--chapter", "--prompt=--seed", "--prompt=a=b"]
    assert parse(["generate", "RUN", *typed]).generate.prompt == ("--chapter", "--seed", "a=b")


def test_numbers_below_zero_stay_numbers():
    for value in ("-1", "-.5", "-1e3"):
        with pytest.raises(InputError, match="temperature"):
            parse(["generate", "RUN", "--temperature", value])
    assert values_of("--epochs", "-1") == {"--epochs": -1}
