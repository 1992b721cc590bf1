"""Flags reach the dataclasses, mistakes are one line. Alone: pytest tests/test_cli.py"""

import json
import os
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from hypergen import cli
from hypergen.config import DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig, flag
from hypergen.errors import HypergenError, InputError
from hypergen.image.config import Settings as ImageSettings
from hypergen.text.config import Settings as TextSettings

REQUIRED = {
    "pretrain": ["--modality", "text", "--data", "a", "--output", "b"],
    "fit": [],
    "generate": ["RUN"],
    "evaluate": ["RUN"],
}
PARTS = {
    "pretrain": {"pretrain": PretrainConfig, "settings.text": TextSettings, "settings.image": ImageSettings},
    "fit": {"fit": FitConfig, "settings.text": TextSettings, "settings.image": ImageSettings},
    "generate": {
        "": cli.Generate,
        "decoding": DecodingConfig,
        "settings.text": TextSettings,
        "settings.image": ImageSettings,
    },
    "evaluate": {"": cli.Evaluate, "evaluate": EvaluateConfig},
}
NOT_FLAGS = {"run", "config", *PARTS["generate"], "settings", "evaluate"}
OTHER = {
    **{"device": "cpu", "strategy": "min-p", "precision": "bf16", "codec": "colors", "modality": "image"},
    **{"width": 64, "num_heads": 8, "prompt": ("a b", "c"), "prompt_fraction": 0.5},
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


def part_of(command, path):
    for name in filter(None, path.split(".")):
        command = getattr(command, name)
    return command


@pytest.mark.parametrize("verb, part, field", list(options()))
def test_every_flag_reaches_its_field(verb, part, field):
    value = other_value(field)
    command = cli.parse([verb, *REQUIRED[verb], *READ_BY.get(field.name, []), *as_arguments(field.name, value)])
    assert getattr(part_of(command, part), field.name) == value
    if field.default is not MISSING:
        assert getattr(part_of(cli.parse([verb, *REQUIRED[verb]]), part), field.name) == field.default


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_every_flag_and_nothing_else(verb, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.parse([verb, "--help"])
    shown = {
        word.strip(",.│") for word in capsys.readouterr().out.split() if word.startswith("--") and word.strip("-|")
    }
    names = {param.values[2].name for param in options() if param.values[0] == verb} | {"config", "help"}
    given = "resume mirror json stop-at-end allow-pickle-weights native verify offload recompute"
    switches = {f"no-{name}" for name in given.split()}
    assert leave.value.code in (0, None)
    assert {flag(name) for name in names} <= shown <= {flag(name) for name in names | switches}


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys, time; from hypergen import cli\n"
        "try: cli.main(['fit', '--help'])\n"
        "except SystemExit: print(time.process_time(), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, *heavy = shown.splitlines()[-1].split()
    assert float(seconds) < 1 and heavy == ["False", "False"]


def given(*arguments, verb="fit"):
    return cli.parse([verb, *REQUIRED[verb], *arguments]).settings.given()


def test_settings_that_were_typed_are_given_also_with_the_default():
    assert given() == {}
    assert given("--prompt-length", "32", "--mirror") == {"prompt_length": 32, "mirror": True}
    assert given("--prompt_length=32", "--no-mirror", verb="generate") == {"prompt_length": 32, "mirror": False}


# --config


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
    command = cli.parse(["fit", "--config", path])
    assert command.fit == FitConfig(epochs=3, learning_rate=1e-4, data="a b.txt", resume=True)
    assert command.settings.given() == {"prompt_length": 7}


def test_what_is_typed_wins(tmp_path):
    path = config_file(tmp_path, {"epochs": 3, "num_samples": 9, "resume": True, "seed": 5})
    for arguments in (["--config", path, "--epochs", "4"], ["--epochs=4", f"--config={path}"]):
        command = cli.parse(["fit", *arguments, "--num_samples", "8", "--no-resume"])
        assert command.fit == FitConfig(epochs=4, num_samples=8, seed=5)


def test_false_lists_and_values_that_look_like_flags(tmp_path):
    path = config_file(tmp_path, {"stop_at_end": False, "prompt": ["one two", "three"], "output": "--odd"})
    command = cli.parse(["generate", "RUN", "--config", path])
    assert command.decoding.stop_at_end is False
    assert (command.prompt, command.output) == (("one two", "three"), "--odd")


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
        cli.parse(["fit", "--config", config_file(tmp_path, content)])
    assert said in str(error.value)


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "nowhere.json"], ["--config", "."]])
def test_no_file(arguments):
    with pytest.raises(InputError, match=r"^--config"):
        cli.parse(["fit", *arguments])


def test_two_files_and_bad_toml_are_refused(tmp_path):
    one = config_file(tmp_path, {})
    with pytest.raises(InputError, match=r"needs one .json or .toml file"):
        cli.parse(["fit", "--config", one, "--config", one])
    with pytest.raises(InputError, match="is not TOML"):
        cli.parse(["fit", "--config", config_file(tmp_path, "epochs: 3", "a.toml")])


# Mistakes


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("fit --epoch 3", "--epoch: unknown option of fit; did you mean --epochs?"),
        ("generate RUN --stratgy greedy", "--stratgy: unknown option of generate; did you mean --strategy?"),
        ("evaluate RUN --xyzzy", "--xyzzy: unknown option of evaluate"),
        ("fit --run x", "--run: unknown option of fit"),
        ("fit --typed x", "--typed: unknown option of fit"),
        ("fit --epochs 1.5", "--epochs '1.5': must be a whole number"),
        ("fit --learning-rate fast", "--learning-rate 'fast': must be a number"),
        ("fit --epochs", "'--epochs'"),
        ("fit --precision fp16", "'fp16'"),
        ("fit more", "more"),
        ("generate", "hypergen generate needs"),
        ("pretrain --modality text", "--data"),
        ("fti", "fti"),
        ("", "pretrain, fit, generate, evaluate"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, said, capsys):
    assert cli.main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("hypergen: ") and shown.err.count("\n") == 1
    assert said in shown.err


def test_exit_codes(monkeypatch, capsys):
    codes = {kind.__name__: kind.exit_code for kind in HypergenError.__subclasses__() if hasattr(kind, "exit_code")}
    codes = {name: code for name, code in codes.items() if name != "Interrupted"}
    assert codes == {"InputError": 2, "CheckpointError": 3, "LockedError": 4, "NonFiniteError": 5, "DiskError": 6}
    for kind in HypergenError.__subclasses__():
        error = kind(15, "text") if kind.__name__ == "Interrupted" else kind("text")

        def fail(arguments, error=error):
            raise error

        monkeypatch.setattr(cli, "parse", fail)
        assert cli.main([]) == error.exit_code == codes.get(kind.__name__, 143)
        assert capsys.readouterr().err == "hypergen: text\n"


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch):
    monkeypatch.setattr(cli, "parse", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main([])


def test_nothing_in_a_message_steers_a_terminal(capsys):
    assert cli.printable("a\x1b[31m\x07b\n\tc\x9b\u202ed") == "a [31m b c d"
    assert cli.main(["fit", "--model", "no\x1b]0;x\x07where"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.rstrip("\n").isprintable()


SAYS = [  # a command that prints its last argument
    sys.executable,
    "-c",
    "import sys; from hypergen import cli\ncli.parse = lambda arguments: lambda: print(arguments[0])\n"
    "cli.require_versions = lambda: None; sys.exit(cli.main())",
]


def test_a_reader_that_goes_away_is_no_traceback():
    command = [sys.executable, "-m", "hypergen", "fit", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == b"" and process.returncode == 1


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")


@FULL
def test_a_full_standard_output_is_exit_6():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SAYS, "x" * 10], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (6, "hypergen: standard output: No space left on device\n")


def test_a_closed_standard_output_takes_everything():
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', *SAYS, "x"], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_of_few_characters_gets_the_others_as_escapes():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*SAYS, "aü\U0001f680"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\xfc\\U0001f680\n", "")
