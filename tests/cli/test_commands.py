"""Every flag reaches its field, and what does not fit is one line. Alone: pytest tests/cli/test_commands.py"""

import io
import json
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import hypergen
from hypergen import api, registry
from hypergen.cli import commands
from hypergen.config import (
    READ_BY,
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
from hypergen.run import Run
from hypergen.runtime.console import warn
from hypergen.runtime.progress import note, track
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
    "pretrain": {
        "": commands.Pretrain,
        "pretrain": PretrainConfig,
        "settings.text": TextSettings,
        "settings.image": ImageSettings,
    },
    "fit": {"": commands.Fit, "fit": FitConfig, "settings.text": TextSettings, "settings.image": ImageSettings},
    "generate": {
        "generate": GenerateConfig,
        "decoding": DecodingConfig,
        "settings.text": TextSettings,
        "settings.image": ImageSettings,
    },
    "evaluate": {"": commands.Evaluate, "evaluate": EvaluateConfig},
    "export": {"": commands.Export, "export": ExportConfig},
}
NOT_FLAGS = {"run", "common", "settings", "pretrain", "fit", "evaluate", "export"}
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


def readers_of(verb, name):
    """What makes somebody read an option."""
    if verb != "generate":
        return []
    return ["--strategy", READ_BY[name][0]] if name in READ_BY else ["--prompts", "a"] * (name == "skip_bad")


def required_by(verb, name):
    """What a command needs besides this option."""
    return unless([flag(name)], REQUIRED[verb]) if verb == "pretrain" else REQUIRED[verb]


def part_of(command, path):
    """A part of a command: a dataclass inside it, or the settings that were typed on top of a modality's defaults."""
    if path.startswith("settings."):
        own = registry.settings_class(path.removeprefix("settings."))
        return own(**{one.name: command.settings[one.name] for one in fields(own) if one.name in command.settings})
    return getattr(command, path) if path else command


@pytest.mark.parametrize("verb, part, field", list(options()))
def test_every_flag_reaches_its_field(verb, part, field):
    value = other_value(field)
    typed = [*required_by(verb, field.name), *readers_of(verb, field.name), *as_arguments(field.name, value)]
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
    typed = [verb, *required_by(verb, field.name), *readers_of(verb, field.name), *as_arguments(field.name, value)]
    if isinstance(value, tuple):
        more = tuple(one / 2 if isinstance(one, float) else f"-- {one}" for one in value)
        command = commands.parse([*typed, "--seed", "1", *as_arguments(field.name, more)])
        assert getattr(part_of(command, part), field.name) == joined(value, more)
        return
    for again in (as_arguments(field.name, value), as_arguments(field.name, field.default)):
        if again[-1] != "None" and again[-1] != str(MISSING):
            with pytest.raises(InputError, match=f"^{flag(field.name)}: is given twice; it takes "):
                commands.parse([*typed, *again])


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
    return commands.parse([verb, *REQUIRED[verb], *arguments]).settings


def test_settings_that_were_typed_are_given_also_with_the_default():
    assert given() == {}
    assert given("--prompt-length", "32", "--mirror") == {"prompt_length": 32, "mirror": True}
    assert given("--prompt_length=32", "--no-mirror", verb="generate") == {"prompt_length": 32, "mirror": False}


def test_a_third_modality_has_options_on_the_command_line(registered):
    assert given("--modulus", "8", "--masked") == {"modulus": 8, "masked": True}


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("generate RUN story", "story: belongs to no option of generate; a prompt is written --prompt 'story'"),
        ("fit smollm2-135m", "smollm2-135m: belongs to no option of fit; a base is written --model smollm2-135m"),
        ("export RUN out.gguf", "out.gguf: belongs to no option of export; see hypergen export --help"),
        ("evaluate", "hypergen evaluate needs RUN, as in hypergen evaluate runs/text-1 --data held-out.jsonl"),
        ("pretrain --data a", "hypergen pretrain needs --modality, --output, as in hypergen pretrain --modality text"),
        ("fit --hub-rows 0", "--hub-rows 0: must be a whole number, 1 or more"),
    ],
)
def test_a_word_too_many_or_too_few(arguments, said):
    with pytest.raises(InputError) as error:
        commands.parse(arguments.split())
    assert str(error.value).startswith(said)


def stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_prompts_of_standard_input_are_typed_prompts(monkeypatch):
    stdin(monkeypatch, "One.\n\nZwölf\r\n".encode())
    read = commands._with_standard_input(GenerateConfig(prompts="-", count=1))
    assert read == GenerateConfig(prompt=("One.", "Zwölf"), count=1)
    assert commands._with_standard_input(read) is read


@pytest.mark.parametrize("content, said", [(b"\n", "has no prompt"), (b"\xff\xfe", "is not UTF-8")])
def test_standard_input_without_prompts(content, said, monkeypatch):
    stdin(monkeypatch, content)
    with pytest.raises(InputError, match=f"^--prompts -: standard input {said}"):
        commands._with_standard_input(GenerateConfig(prompts="-"))


def test_json_of_a_fit_is_one_object(toy_run, toy_base, monkeypatch, capsys):
    run = hypergen.load(toy_run, device="cpu")
    monkeypatch.setattr(api, "fit", lambda *_, **__: run)
    commands.parse(["fit", "--model", toy_base, "--json"])()
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"folder": toy_run, "training": run.record["training"], "comparison": run.records}


def test_json_of_a_pretraining_is_one_object(toy_run, monkeypatch, capsys):
    base = Run(Path("base"), None, {"held_out": {"loss": 1.5}})
    monkeypatch.setattr(api, "pretrain", lambda *_, **__: base)
    command = ["pretrain", "--modality", "toy", "--data", "numbers", "--output", "base"]
    commands.parse([*command, "--json"])()
    assert json.loads(capsys.readouterr().out) == {"folder": "base", "held_out": {"loss": 1.5}}
    commands.parse(command)()
    assert capsys.readouterr().out == "held-out loss 1.500 nats per token\nwrote base\n"


def test_quiet_is_of_every_verb():
    for verb in commands.VERBS:
        assert commands.parse([verb, *REQUIRED[verb], "--quiet"]).common.quiet


def test_a_quiet_command_shows_no_progress(capsys):
    class Command:
        common = commands.Common(quiet=True)

        def __call__(self):
            with track("work", 1) as advance:
                advance()
            note("noted")
            warn("warned")

    commands.run(Command())
    assert capsys.readouterr().err == "hypergen: warned\n"
    Command.common = commands.Common()
    commands.run(Command())
    shown = capsys.readouterr().err
    assert "work: 1/1" in shown and "noted" in shown


def test_fit_ends_with_what_came_of_it(toy_run, toy_base, monkeypatch, capsys):
    monkeypatch.setattr(api, "fit", lambda *_, **__: hypergen.load(toy_run, device="cpu"))
    commands.parse(["fit", "--model", toy_base])()
    assert capsys.readouterr().out.startswith("training loss ")
