"""Every adapter has the members of the contract with its signatures, and mypy finds a misspelt one.

Alone: pytest tests/test_modality.py
"""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from hypergen import modality as contract
from hypergen import registry
from hypergen.config import FitConfig
from tests.image import tiny as tiny_image
from tests.text import tiny as tiny_text
from tests.toy.adapter import toy

PROJECT = Path(__file__).parents[1]
NAMES = ("text", "image", "toy")
MAKERS = {"text": tiny_text.modality, "image": tiny_image.base, "toy": toy}


@pytest.fixture(scope="module", autouse=True)
def _registered(registered):
    pass


def methods(protocol):
    """The functions that a protocol and its bases declare, by name."""
    found = {}
    for one in protocol.__mro__:
        if one.__module__ == contract.__name__:
            found |= {name: part for name, part in vars(one).items() if inspect.isfunction(part) and name[0] != "_"}
    return found


def parameters(function):
    """Names, kinds and whether there is a default, without `self`."""
    given = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    return [(one.name, one.kind, one.default is inspect.Parameter.empty) for one in given]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_keeps_the_signatures(name):
    adapter = registry.adapter(name)
    for member, declared in methods(contract.Adapter).items():
        assert parameters(getattr(adapter, member)) == parameters(declared), member
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in parameters(declared))


@pytest.mark.parametrize("name", NAMES)
def test_the_module_has_the_constants(name):
    adapter, config = registry.adapter(name), sys.modules[registry.MODALITIES[name] + ".config"]
    assert all(
        isinstance(metric, contract.Metric) and metric.head and metric.meaning for metric in adapter.METRICS.values()
    )
    assert all(isinstance(one, str) for one in (*adapter.LIBRARIES, *adapter.OPTIONAL_DEPENDENCIES.values()))
    assert adapter.DEFAULT_PROMPTS is None or isinstance(adapter.DEFAULT_PROMPTS, str)
    assert adapter.PIPELINE_TAG is None or isinstance(adapter.PIPELINE_TAG, str)
    assert isinstance(adapter.LIBRARY_NAME, str) and compile(adapter.LOADING, "card", "exec")
    assert config.EXPORT_FORMATS.keys() == adapter.EXPORT_WRITERS.keys()
    for one in config.EXPORT_FORMATS.values():
        assert one.suffix == one.suffix.lower() and one.suffix[0] == "." and one.types
    assert all(map(callable, adapter.EXPORT_WRITERS.values()))
    assert all(isinstance(source, str) for source in config.BUILT_IN_SOURCES)
    assert registry.paper_recipe(name).keys() <= config.Settings.__dataclass_fields__.keys()
    assert registry.sources(name)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in config.MODEL_SUFFIXES)
    assert all(name == str(Path(name).name) for name in config.NAMED_BASES)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_base_has_a_card_with_recipes_and_nothing_else_has(name):
    adapter, known = registry.adapter(name), FitConfig.__dataclass_fields__.keys()
    known |= registry.settings_class(name).__dataclass_fields__.keys()
    for base in registry.named_bases(name):
        recipes = adapter.card(source=base)["fit"]
        assert {"self", "data"} <= recipes.keys() and all(recipe.keys() <= known for recipe in recipes.values())
    assert adapter.card(source="a/model") == {}


@pytest.mark.parametrize("name", NAMES)
def test_modality_model_and_reference_metrics_keep_the_signatures(name):
    modality = MAKERS[name]()
    for member, declared in methods(contract.Modality).items():
        assert parameters(getattr(modality, member))[: len(parameters(declared))] == parameters(declared), member
    for protocol in (contract.Predictor, contract.TruncatableModel, contract.Decoder):
        for member in methods(protocol).keys() - vars(contract.Module):
            assert parameters(getattr(modality.model, member)) == parameters(methods(protocol)[member]), member


needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is a developer's tool")


def type_check(source, folder):
    """Run mypy on a probe, with the project's own cache: without one it reads torch anew, which takes a minute."""
    path = folder / "probe.py"
    path.write_text(source)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(path)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


@needs_mypy
def test_mypy_finds_a_misspelt_member_of_an_adapter(tmp_path):
    toy_source = (PROJECT / "tests" / "toy" / "adapter.py").read_text()
    toy_source += "\n\ndef check(modality: ToyModality) -> Modality:\n    return modality\n"
    broken = toy_source.replace("def add_start_tokens(", "def add_start_token(")
    assert broken != toy_source
    shown = type_check(broken, tmp_path)
    assert shown.returncode == 1 and "add_start_tokens" in shown.stdout, shown.stdout
    sound = type_check(toy_source, tmp_path)
    assert sound.returncode == 0, sound.stdout


@needs_mypy
def test_mypy_finds_a_misspelt_member_of_a_model(tmp_path):
    source = (PROJECT / "tests" / "toy" / "model.py").read_text()
    source += "\n\nfrom hypergen.modality import TokenModel\n\n"
    source += "def check(model: ToyModel) -> TokenModel:\n    return model\n"
    shown = type_check(source.replace("def forward_from(", "def forward_form("), tmp_path)
    assert shown.returncode == 1 and "forward_from" in shown.stdout, shown.stdout
    sound = type_check(source, tmp_path)
    assert sound.returncode == 0, sound.stdout
