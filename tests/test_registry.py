"""A name leads to its package, a folder to its modality. Alone: pytest tests/test_registry.py"""

import json
import subprocess
import sys

import pytest

from hypergen import registry
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
