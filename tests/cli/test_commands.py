"""Every flag reaches its field, and help shows them all. Alone: pytest tests/cli/test_commands.py"""

import subprocess
import sys
from dataclasses import MISSING, fields

import pytest

import hypergen
from hypergen import api
from hypergen.cli import commands
from hypergen.config import (
    DecodingConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    GenerateConfig,
    PretrainConfig,
    flag,
)
from hypergen.errors import InputError
from hypergen.image.config import Settings as ImageSettings
from hypergen.text.config import Settings as TextSettings
from tests.conftest import unless

REQUIRED = {
    "pretrain": ["--modality", "text", "--data", "a", "--output", "b"],
    "fit": [],
    "generate": ["RUN"],
    "evaluate": ["RUN"],
    "export": ["RUN"],
}
PARTS = {
    "pretrain": {"pretrain": PretrainConfig, "settings.text": TextSettings, "settings.image": ImageSettings},
    "fit": {"fit": FitConfig, "settings.text": TextSettings, "settings.image": ImageSettings},
    "generate": {
        "generate": GenerateConfig,
        "decoding": DecodingConfig,
        "settings.text": TextSettings,
        "settings.image": ImageSettings,
    },
    "evaluate": {"": commands.Evaluate, "evaluate": EvaluateConfig},
    "export": {"": commands.Export, "export": ExportConfig},
}
NOT_FLAGS = {"run", "config", "settings", "evaluate", "export"}
OTHER = {
    **{"device": "cpu", "strategy": "min-p", "precision": "bf16", "codec": "colors", "modality": "image"},
    **{"width": 64, "num_heads": 8, "prompt": ("a b", "c"), "prompt_fraction": 0.5, "interpolations": (0.25, 0.5)},
}


def options():
    for verb, parts in PARTS.items():
        for part, config in parts.items():
            for field in fields(config):
                if part or field.name not in NOT_FLAGS:
                    yield pytest.param(verb, part, field, id=f"{verb}{flag(field.name)}")


def other_value(field):
    """A value that is allowed and not the default."""
    if field.name in OTHER:
        return OTHER[field.name]
    kind = str(field.type)
    if "bool" in kind:
        return not field.default
    if "int" in kind:
        return (field.default or 3) + 1
    return 0.25 if "float" in kind else "x"


def as_arguments(name, value):
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no-{name}")]
    return [flag(name), *map(str, value if isinstance(value, tuple) else [value])]


READ_BY = {"fsd_alpha": ["--strategy", "fsd"], "num_beams": ["--strategy", "beam"]}  # options of one strategy


def required_by(verb, name):
    """What a command needs besides this option."""
    return unless([flag(name)], REQUIRED[verb]) if verb == "pretrain" else REQUIRED[verb]


def part_of(command, path):
    for name in filter(None, path.split(".")):
        command = getattr(command, name)
    return command


@pytest.mark.parametrize("verb, part, field", list(options()))
def test_every_flag_reaches_its_field(verb, part, field):
    value = other_value(field)
    typed = [*required_by(verb, field.name), *READ_BY.get(field.name, []), *as_arguments(field.name, value)]
    command = commands.parse([verb, *typed])
    assert getattr(part_of(command, part), field.name) == value
    if field.default is not MISSING:
        assert getattr(part_of(commands.parse([verb, *REQUIRED[verb]]), part), field.name) == field.default


def joined(first, second):
    """What an option gives that takes several values."""
    return tuple(sorted({*first, *second})) if isinstance(first[0], float) else (*first, *second)


@pytest.mark.parametrize("verb, part, field", list(options()))
def test_every_flag_given_twice_is_both_or_an_error(verb, part, field):
    value = other_value(field)
    typed = [verb, *required_by(verb, field.name), *READ_BY.get(field.name, []), *as_arguments(field.name, value)]
    if isinstance(value, tuple):
        more = tuple(one / 2 if isinstance(one, float) else f"-- {one}" for one in value)
        command = commands.parse([*typed, "--seed", "1", *as_arguments(field.name, more)])
        assert getattr(part_of(command, part), field.name) == joined(value, more)
        return
    for again in (as_arguments(field.name, value), as_arguments(field.name, field.default)):
        if again[-1] != "None" and again[-1] != str(MISSING):
            with pytest.raises(InputError, match=f"^{flag(field.name)}: is given twice; it takes "):
                commands.parse([*typed, *again])


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_shows_every_flag_and_nothing_else(verb, capsys):
    with pytest.raises(SystemExit) as leave:
        commands.parse([verb, "--help"])
    shown = {
        word.strip(",.│") for word in capsys.readouterr().out.split() if word.startswith("--") and word.strip("-|")
    }
    names = {param.values[2].name for param in options() if param.values[0] == verb} | {"config", "help"}
    given = "resume mirror json stop-at-end allow-pickle-weights native verify offload pack pad chat recompute"
    switches = {f"no-{name}" for name in given.split()}
    assert leave.value.code in (0, None)
    assert {flag(name) for name in names} <= shown <= {flag(name) for name in names | switches}


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys, time; from hypergen.cli import main as cli\n"
        "try: cli.main(['fit', '--help'])\n"
        "except SystemExit: print(time.process_time(), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, *heavy = shown.splitlines()[-1].split()
    assert float(seconds) < 1 and heavy == ["False", "False"]


def given(*arguments, verb="fit"):
    return commands.parse([verb, *REQUIRED[verb], *arguments]).settings.given()


def test_settings_that_were_typed_are_given_also_with_the_default():
    assert given() == {}
    assert given("--prompt-length", "32", "--mirror") == {"prompt_length": 32, "mirror": True}
    assert given("--prompt_length=32", "--no-mirror", verb="generate") == {"prompt_length": 32, "mirror": False}


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_says_what_data_and_model_may_name(verb, capsys):
    with pytest.raises(SystemExit):
        commands.parse([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ("text: " in shown and "stories" in shown and "cifar10" in shown) == (verb != "export")
    assert ("smollm2-135m" in shown and "gemma-3-270m" in shown) == (verb != "pretrain")


def test_fit_ends_with_what_came_of_it(toy_run, monkeypatch, capsys):
    monkeypatch.setattr(api, "fit", lambda *_, **__: hypergen.load(toy_run, device="cpu"))
    commands.parse(["fit"])()
    assert capsys.readouterr().out.startswith("training loss ")
