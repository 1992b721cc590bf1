"""Keywords are those of the configs, shown one by one, and a type checker finds a typo.

Alone: pytest tests/test_keywords.py
"""

import importlib.util
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import hypergen
from hypergen import keywords, registry
from hypergen.config import DecodingConfig, EvaluateConfig, ExportConfig, FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.runtime.progress import track

PROJECT = Path(__file__).parents[1]
OF_CONFIGS = {
    keywords.PretrainKeywords: PretrainConfig,
    keywords.FitKeywords: FitConfig,
    keywords.DecodingKeywords: DecodingConfig,
    keywords.EvaluateKeywords: EvaluateConfig,
    keywords.ExportKeywords: ExportConfig,
}
WIDER = (str, str | None)  # in Python a path, or an object, is taken where the command line has a text


def settings():
    """Every setting of the modalities that come with hypergen, and its type."""
    found = {}
    for name in registry.OWN:
        found |= get_type_hints(registry.settings_class(name))
    return found


def own(kind):
    """The keywords of a class without the settings."""
    return {name: hint for name, hint in get_type_hints(kind).items() if name not in settings()}


@pytest.mark.parametrize("kind", OF_CONFIGS, ids=lambda kind: kind.__name__)
def test_keywords_are_the_fields_of_the_config(kind):
    declared = get_type_hints(OF_CONFIGS[kind])
    assert own(kind).keys() == declared.keys()
    assert [name for name, hint in own(kind).items() if hint != declared[name] and declared[name] not in WIDER] == []


def test_settings_are_those_of_the_modalities():
    found = get_type_hints(keywords.SettingsKeywords)
    assert found.keys() == settings().keys()
    assert [name for name, hint in found.items() if hint != settings()[name] and settings()[name] not in WIDER] == []


@pytest.mark.parametrize("verb", ["fit", "pretrain", "evaluate", "load", "generate"])
def test_a_signature_lists_every_keyword(verb):
    parameters = inspect.signature(getattr(hypergen, verb)).parameters
    assert "progress" in parameters
    assert not [one for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    expected = {"fit": FitConfig, "pretrain": PretrainConfig, "evaluate": EvaluateConfig, "generate": DecodingConfig}
    if verb in expected:
        assert {field.name for field in fields(expected[verb])} <= parameters.keys()
    assert ("sequence_length" in parameters) == (verb != "evaluate")


@pytest.mark.parametrize("method", ["generate", "generate_tokens", "grid", "export"])
def test_a_method_lists_every_keyword(method):
    parameters = inspect.signature(getattr(hypergen.Run, method)).parameters
    assert next(iter(parameters)) == "self"
    assert {"format"} <= parameters.keys() if method == "export" else {"strategy", "top_p"} <= parameters.keys()


def test_help_and_name_stay(capsys):
    assert hypergen.fit.__name__ == "fit" and hypergen.fit.__doc__.startswith("Hyperfit a base")


def test_the_interface_speaks_python_and_hides_progress(capsys):
    @keywords.speaks_python(keywords.ExportKeywords)
    def verb(*, progress=True, **options):
        with track("count", 1) as advance:
            advance()
        if options:
            raise InputError("--type x: must be f32")
        return 3

    assert verb(progress=False) == 3 and capsys.readouterr().err == ""
    assert verb() == 3 and capsys.readouterr().err.startswith("count: 1/1")
    with pytest.raises(InputError, match=r"^type x: must be f32$"):
        verb(type="x")


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is a developer's tool")
def test_mypy_finds_a_typo_and_a_wrong_type(tmp_path):
    lines = {
        'run = hypergen.fit(data=["a", "b"], epochs=3, sequence_length=64, output=pathlib.Path("run"))': "",
        'run.generate("a", strategy="top-p", top_p=0.9, progress=False)': "",
        "hypergen.evaluate(run, count=4).to_dataframe()": "",
        "hypergen.fit(epoch=3)": '"epoch"',
        'hypergen.fit(epochs="3")': '"epochs"',
        'run.generate("a", strategy="topp")': '"strategy"',
        "run.grid(prompt_fractions=0.5)": '"prompt_fractions"',
        "hypergen.evaluate(run, counts=4)": '"counts"',
        'hypergen.load("run", prompt_lenght=4)': '"prompt_lenght"',
        'hypergen.generate("run", "a", tempratur=1.0)': '"tempratur"',
        'run.export(kind="f32")': '"kind"',
    }
    path = tmp_path / "probe.py"
    path.write_text("\n".join(["import pathlib", "import hypergen", *lines]))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(path)]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stdout
    found = {int(line.split(":")[1]): line for line in shown.splitlines() if ": error: " in line}
    for number, (line, told) in enumerate(lines.items(), 3):
        assert (number in found) == bool(told), (line, shown)
        assert told in found.get(number, ""), (line, shown)
