"""The last screen of a fit. Alone: pytest tests/cli/test_fit.py"""

import shlex
from dataclasses import asdict

import pytest

import hypergen
from hypergen.cli.commands import parse
from hypergen.cli.fit import next_commands, show
from hypergen.config import FitConfig
from hypergen.publish import fit_command

GOOD = {"outcome": "hyperfitted", "sentences": ["Hyperfitted: so.", "Quotation: one.\x1b[31m"]}
BAD = {"outcome": "not hyperfitted", "sentences": ["Not hyperfitted: why."]}


@pytest.fixture(scope="module")
def text(text_run):
    return hypergen.load(text_run, device="cpu")


def with_verdict(run, verdict, **changes):
    return type(run)(run.folder, run.modality, run.record | {"verdict": verdict} | changes)


def shown(run, capsys):
    show(run)
    return capsys.readouterr().out


def test_the_screen_answers_what_was_done_whether_it_worked_and_what_next(text, capsys):
    said = shown(with_verdict(text, GOOD), capsys)
    lines = said.splitlines()
    training = text.record["training"]
    reached = f"training loss {training['loss']:.3f}, token accuracy {training['accuracy']:.3f} after 2 epochs"
    assert lines[0].startswith(f"{reached}, stopped by epochs (--target-loss 0.05 was not reached), ")
    assert lines[2:4] == ["Hyperfitted: so.", "Quotation: one.[31m"]
    parts = ["prompt  ", "before  ", "after   ", "| model and decoding", "rep-4: ", "next: ", "wrote "]
    places = [said.index(f"\n{part}") for part in parts]
    assert places == sorted(places)
    heads = next(line for line in lines if line.startswith("| model and decoding")).split("|")[1:-1]
    assert len(heads) <= 6 and all(head.strip().endswith("is better") for head in heads[1:])
    assert lines[-1].endswith("report.html") and text.folder.name in lines[-1]


def test_the_table_names_its_rows_by_the_verdict(text, capsys):
    assert "| hyperfitted greedy" in shown(with_verdict(text, GOOD), capsys)
    failed = shown(with_verdict(text, BAD), capsys)
    assert "| fine-tuned greedy (not hyperfitted)" in failed and "| hyperfitted greedy" not in failed
    assert [one["name"] for one in text.records][2] == "hyperfitted greedy"


def test_the_loop_of_the_example_is_in_brackets(text, capsys):
    example = {"prompt": "Once", "before": [[" so", False], [" so it went", True]], "after": [[" upon", False]]}
    said = shown(with_verdict(text, GOOD, example=example), capsys)
    assert "\nprompt  Once\nbefore  so [so it went]\nafter   upon\n" in said


def test_items_without_text_have_no_example(toy_run, capsys):
    said = shown(hypergen.load(toy_run, device="cpu"), capsys)
    assert "\nbefore" not in said and "next: hypergen " in said


def test_a_run_of_an_older_version_is_shown_without_a_verdict(text, capsys):
    said = shown(with_verdict(text, None, example=None), capsys)
    assert "| hyperfitted greedy" in said and "next: hypergen generate" in said


def test_the_next_commands_can_be_typed(text):
    for verdict in (GOOD, BAD, None):
        first, second = next_commands(with_verdict(text, verdict))
        for command in (first, second):
            program, *arguments = shlex.split(command)
            assert program == "hypergen" and parse(arguments) is not None
        assert ("--epochs 4" in first) == (verdict is BAD) and second.startswith("hypergen evaluate ")


def test_the_command_of_the_record_makes_the_same_run(text):
    _, *arguments = shlex.split(fit_command(text.record))
    command = parse(arguments)
    again, recorded = asdict(command.fit), text.record["config"]
    free = {"output", "resume", "checkpoint_every"}
    differing = {name for name in again if again[name] != recorded[name]} - free
    defaults = asdict(FitConfig())
    assert all(recorded[name] is None or recorded[name] == defaults[name] for name in differing)
    given = command.settings
    assert given == {name: value for name, value in text.record["settings"].items() if name in given}
    assert {"sequence_length": 16, "prompt_length": 4}.items() <= given.items()


def test_a_reached_target_is_not_called_short(text, capsys):
    reached = text.record["training"] | {"stopped_by": "target_loss", "loss": 0.04}
    assert "was not reached" not in shown(with_verdict(text, GOOD, training=reached), capsys)
