"""A name leads to its package, a folder to its modality. Alone: pytest tests/test_registry.py"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hypergen
from hypergen import registry
from hypergen.config import FitConfig
from hypergen.errors import InputError


@pytest.mark.parametrize("name", ["text", "image", "toy"])
def test_a_name_leads_to_an_adapter_and_its_settings(name, registered):
    adapter = registry.adapter(name)
    assert adapter.__name__ == f"{registry.MODALITIES[name]}.adapter"
    assert registry.settings_class(name).__module__ == f"{registry.MODALITIES[name]}.config"


@pytest.mark.parametrize(
    "ask", [registry.adapter, registry.settings_class, registry.paper_recipe, registry.sources, registry.named_bases]
)
@pytest.mark.parametrize("name", ["video", "", "Text", ["text"]])
def test_an_unknown_name_is_refused_with_those_that_are_allowed(ask, name):
    with pytest.raises(InputError, match="allowed are text, image"):
        ask(name)


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"model_type": "imagegpt"}, "image"),
        ({"model_type": "llama"}, "text"),
        ({"model_type": "toy"}, "toy"),
        ({}, "text"),
    ],
)
def test_every_modality_is_asked_and_the_first_takes_the_rest(content, expected, registered, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert registry.identify(tmp_path).modality == expected
    (tmp_path / "hypergen.json").write_text(json.dumps({"modality": "image"}))
    assert registry.identify(tmp_path).modality == "image"


def test_a_name_wins_over_a_folder_that_is_called_so(registered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy-zero").mkdir()
    (tmp_path / "toy-zero" / "config.json").write_text('{"model_type": "imagegpt"}')
    assert registry.named_bases("toy") == ("toy-zero",) and registry.named_bases("image") == ()
    assert registry.identify("toy-zero").modality == "toy" and registry.is_named("toy-zero")
    assert registry.identify("./toy-zero").modality == "image" and not registry.is_named("./toy-zero")


def test_a_file_tells_by_its_suffix(registered, tmp_path):
    assert {".gguf", ".toy"} <= set(registry.model_suffixes())
    for name, expected in {"a.toy": "toy", "A.GGUF": "text", "a.zip": None}.items():
        assert registry.identify(tmp_path / name).modality is None
        (tmp_path / name).write_text("")
        assert registry.identify(tmp_path / name).modality == expected


def test_a_folder_without_configuration_tells_by_a_file_of_one_modality(registered, tmp_path):
    for name, expected in {"adapter_config.json": "text", "toy.json": "toy"}.items():
        (tmp_path / expected).mkdir()
        (tmp_path / expected / name).write_text("{}")
        assert registry.identify(tmp_path / expected).modality == expected
        (tmp_path / expected / "config.json").write_text('{"model_type": "imagegpt"}')
        assert registry.identify(tmp_path / expected).modality == "image"


@pytest.fixture
def known(monkeypatch):
    """The modalities, as they were again after the test."""
    monkeypatch.setattr(registry, "modalities", lambda found=dict(registry.OWN): found)
    return registry.modalities()


def test_a_modality_is_registered_by_name_and_package(known):
    hypergen.register_modality("numbers", "tests.toy")
    assert known["numbers"] == "tests.toy" and registry.adapter("numbers").__name__ == "tests.toy.adapter"
    hypergen.register_modality("numbers", "tests.toy")  # again, as a notebook's cell does


@pytest.mark.parametrize(
    "name, package, message",
    [
        ("text", "tests.toy", "modality 'text': hypergen.text has this name"),
        ("../x", "tests.toy", "modality '../x': its name must be letters, digits, '-' and '_'"),
        (3, "tests.toy", "modality 3: its name must be letters, digits, '-' and '_'"),
        ("audio", "no_such", r"modality 'audio': no_such.config cannot be imported \(No module named 'no_such'\)"),
        ("audio", "hypergen.cli", r"modality 'audio': hypergen.cli.config cannot be imported"),
    ],
)
def test_what_is_no_modality_is_refused(name, package, message, known):
    with pytest.raises(InputError, match=f"^{message}"):
        hypergen.register_modality(name, package)
    assert known == registry.OWN


def test_a_config_that_lacks_something_is_named(known, monkeypatch, tmp_path):
    (tmp_path / "half_a_modality").mkdir()
    (tmp_path / "half_a_modality" / "config.py").write_text("Settings, PAPER_RECIPE, SOURCES = object, {}, ''")
    monkeypatch.syspath_prepend(tmp_path)
    lacks = "half_a_modality.config lacks BUILT_IN_SOURCES, NAMED_BASES, MODEL_SUFFIXES, MODEL_FILES, EXPORT_FORMATS"
    with pytest.raises(InputError, match=f"^modality 'half': {lacks}, recognizes$"):
        hypergen.register_modality("half", "half_a_modality")


def test_a_setting_that_the_core_has_is_refused(known, monkeypatch):
    monkeypatch.setattr("tests.toy.config.Settings", FitConfig)
    with pytest.raises(InputError, match=r"tests.toy.config.Settings has allow_pickle_weights, which is an option of"):
        hypergen.register_modality("numbers", "tests.toy")


def plugin(folder, text):
    """What pip leaves of a distribution with entry points."""
    (folder / "plugin-1.dist-info").mkdir()
    (folder / "plugin-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (folder / "plugin-1.dist-info" / "entry_points.txt").write_text(text)


def test_the_command_line_knows_the_modalities_of_other_distributions(tmp_path):
    plugin(tmp_path, "[hypergen.modalities]\nnumbers = tests.toy\nbroken = nowhere\ntext = tests.toy\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    command = [sys.executable, "-m", "hypergen", "fit", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert shown.returncode == 0 and "--modulus" in shown.stdout and "numbers, or a .jsonl" in shown.stdout
    assert [line.split(" is left out: ")[0] for line in shown.stderr.splitlines()] == [
        "hypergen: entry point broken = nowhere of hypergen.modalities",
        "hypergen: entry point text = tests.toy of hypergen.modalities",
    ]


def test_nothing_is_looked_for_before_somebody_asks():
    code = "import sys, hypergen.registry; print('importlib.metadata' in sys.modules and hypergen.registry.modalities"
    code += ".cache_info().currsize)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "0\n"
    with pytest.raises(AttributeError, match="has no attribute 'MODALITIE'"):
        registry.MODALITIE  # noqa: B018 (the access is the test)


def test_a_guess_is_not_told(registered, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert (registry.told(tmp_path), registry.identify(tmp_path).modality) == (None, "text")
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    assert registry.told(tmp_path) == "toy"


def test_an_empty_folder_tells_nothing(tmp_path):
    assert registry.identify(tmp_path).modality is None


def test_a_folder_of_the_hub_s_cache_is_its_snapshot(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "imagegpt"}')
    assert registry.identify(tmp_path / "models--org--name") == registry.identify(snapshot) == (str(snapshot), "image")
    assert registry.identify("org/name") == ("org/name", None)


def test_recipe_and_sources_need_no_torch():
    code = (
        "import sys; from hypergen import registry\n"
        "print([(registry.paper_recipe(name), bool(registry.sources(name))) for name in registry.MODALITIES])\n"
        "print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown == ["[({'sequence_length': 256}, True), ({}, True)]", "False"]


def test_a_recipe_cannot_be_changed_by_its_reader():
    registry.paper_recipe("text")["sequence_length"] = 1
    assert registry.paper_recipe("text") == {"sequence_length": 256}


def test_a_record_without_a_modality_leaves_it_to_the_configuration(tmp_path):
    (tmp_path / "hypergen.json").write_text(json.dumps({"words": {"file": "words.txt.gz", "from": "a corpus"}}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert registry.identify(tmp_path).modality == "text"


@pytest.mark.parametrize("name", registry.MODALITIES)
def test_built_in_sources_are_named_to_users(name):
    assert all(source in registry.sources(name) for source in registry.built_in_sources(name))


def test_named_bases_of_all_modalities():
    assert set(registry.named_bases("text")) <= set(registry.all_named_bases())
    assert all(map(registry.is_named, registry.all_named_bases())) and not registry.is_named("nowhere")
