"""Mistakes are one line with an exit code, and every standard output can be written to.

Alone: pytest tests/cli/test_main.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hypergen.cli import main as cli
from hypergen.errors import HypergenError
from hypergen.version import __version__


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("fit --epoch 3", "--epoch: unknown option of fit; did you mean --epochs?"),
        ("generate RUN --stratgy greedy", "--stratgy: unknown option of generate; did you mean --strategy?"),
        ("export RUN --typ f32", "--typ: unknown option of export; did you mean --type?"),
        ("evaluate RUN --xyzzy", "--xyzzy: unknown option of evaluate"),
        ("fit --run x", "--run: unknown option of fit"),
        ("fit --typed x", "--typed: unknown option of fit"),
        ("fit --epochs 1.5", "--epochs '1.5': must be a whole number"),
        ("fit --learning-rate fast", "--learning-rate 'fast': must be a number"),
        ("fit --epochs", "'--epochs'"),
        ("fit --precision fp16", "'fp16'"),
        ("fit more", "more"),
        ("evaluate", "hypergen evaluate needs"),
        ("pretrain --modality text", "--data"),
        ("fti", "fti: no command; there are fit, generate, evaluate, export, pretrain; did you mean fit?"),
        ("--modality text fit", "--modality: no command; there are fit, generate"),
        ("fit --lr 1e-3", "--lr: unknown option of fit; did you mean --learning-rate?"),
        ("generate RUN --strategy top_p", "did you mean top-p?"),
        ("fit --modality txt", "; did you mean text?"),
        ("fit --model smollm2", "smollm2: no such folder; did you mean smollm2-135m?"),
        ("fit --modality text --data storys", "did you mean stories?"),
        ("fit", "--modality is needed: text, image"),
        ("generate --prompt a", "generate: needs RUN, or --modality (text, image"),
        (
            "generate RUN --top-p .9 --top-k 3",
            "--strategy temperature, top-k, top-p, min-p or fsd reads it; this is greedy",
        ),
        ("generate RUN --prompt a --prompts b", "--prompt and --prompts: give one of them"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, said, capsys):
    assert cli.main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("hypergen: ") and shown.err.count("\n") == 1
    assert said in shown.err


def test_no_command_shows_the_help(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main([])
    shown = capsys.readouterr()
    assert leave.value.code == 2 and shown.out == "" and shown.err.startswith("usage: hypergen COMMAND")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(["--version"])
    assert leave.value.code == 0 and capsys.readouterr().out == f"hypergen {__version__}\n"


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
    assert cli.main(["fit", "--model", "no\x1b]0;x\x07where"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.rstrip("\n").isprintable()


SAYS = [  # a command that prints its last argument
    sys.executable,
    "-c",
    "import sys; from hypergen.cli import main as cli\ncli.parse = lambda arguments: arguments[0]\n"
    "cli.run = print; cli.require_versions = lambda: None; sys.exit(cli.main())",
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
