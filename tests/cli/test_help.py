"""Help shows what a verb reads, in groups, with defaults in words. Alone: pytest tests/cli/test_help.py"""

import re
import shlex

import pytest

from hypergen import registry
from hypergen.cli import commands
from hypergen.cli.help import GROUPS


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as leave:
        commands.parse([*arguments])
    assert leave.value.code == 0
    return capsys.readouterr().out


def options_in(text):
    return {word.removeprefix("--no-").removeprefix("--") for word in re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)}


@pytest.mark.parametrize("verb", commands.VERBS)
def test_every_option_that_a_verb_reads_and_no_other(verb, capsys):
    read = {
        option.flag.removeprefix("--")
        for option in commands._options(commands.VERBS[verb]).values()
        if verb in option.field.metadata.get("verbs", (verb,))
    }
    assert options_in(shown(capsys, verb, "--help")) == read


def test_options_of_another_verb_are_not_shown(capsys):
    of_fit, of_generate = (options_in(shown(capsys, verb, "-h")) for verb in ("fit", "generate"))
    assert not {"codec", "codec-steps", "mirror", "image-size", "chat"} & of_fit
    assert not {"codec", "mirror", "pack", "pad", "sequence-length"} & of_generate
    assert {"pack", "sequence-length"} < of_fit and {"chat", "prompt-length"} < of_generate


@pytest.mark.parametrize("verb", commands.VERBS)
def test_a_verb_has_an_example_groups_and_words(verb, capsys):
    text = shown(capsys, verb, "--help")
    assert text.startswith(f"usage: hypergen {verb} ") and commands.EXAMPLES[verb] in text
    titles = re.findall(r"^([A-Z][a-z ]+)$", text, re.MULTILINE)
    of_modalities = [title for title in titles if title.startswith("Only of modality ")]
    assert [title for title in GROUPS if title in titles] == titles[: len(titles) - len(of_modalities)]
    assert {"Data", "Output", "Machine"} <= set(titles)
    for alien in ("STR", "None unless", "(default", "True", "False", "settings.", "\x1b"):
        assert alien not in text


@pytest.mark.parametrize("verb", commands.VERBS)
def test_the_example_parses(verb):
    assert isinstance(commands.parse(shlex.split(commands.EXAMPLES[verb])[1:]), commands.VERBS[verb])


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_says_what_data_and_model_may_name(verb, capsys):
    text = " ".join(shown(capsys, verb, "--help").split())
    assert ("text: " in text and "stories" in text and "cifar10" in text) == (verb != "export")
    assert ("smollm2-135m" in text and "gemma-3-270m" in text) == (verb != "pretrain")


def test_defaults_are_said_in_words(capsys):
    text = " ".join(shown(capsys, "fit", "--help").split())
    assert "at or below this; 0.05 unless given." in text and "the base's card says, else 2000." in text
    assert "Do not end a completion at the end token." in " ".join(shown(capsys, "generate", "--help").split())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, "fit", "--help").splitlines()
    assert max(map(len, lines)) <= max(56, min(100, width))


def test_the_overview_has_every_verb_with_an_example(capsys):
    text = shown(capsys, "--help")
    for verb, example in commands.EXAMPLES.items():
        assert f"\n  {verb} " in text and example in text
    assert shown(capsys, "-h") == text


def test_a_third_modality_has_its_own_group(registered, capsys):
    text = shown(capsys, "fit", "--help")
    assert "Only of modality toy" in text and "--modulus N" in text
    assert len(registry.MODALITIES) == 3
