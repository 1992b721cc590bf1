"""One line says what is missing or too old. Alone: pytest tests/runtime/test_dependencies.py"""

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from hypergen.errors import InputError
from hypergen.runtime.dependencies import FLOORS, how_to_install, is_installed, load_optional, require_versions

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def fresh():
    """Checked anew, here and by whoever comes next."""
    require_versions.cache_clear()
    yield
    require_versions.cache_clear()


def test_a_module_is_imported_on_use():
    assert is_installed("json") and load_optional("json.decoder", "json>=1", "X") is json.decoder


def test_a_missing_library_is_named_with_its_requirement():
    assert not is_installed("no_such_library")
    with pytest.raises(InputError) as error:
        load_optional("no_such_library.inner", "no-such>=2", "KID")
    assert str(error.value) == "KID: needs no_such_library (pip install 'no-such>=2')"
    assert how_to_install("sacrebleu", "sacrebleu>=2.5") == "needs sacrebleu (pip install 'sacrebleu>=2.5')"


@pytest.mark.parametrize("name", list(FLOORS))
def test_the_floors_are_those_of_the_package(name):
    declared = next(line for line in PROJECT["dependencies"] if line.startswith(name + ">"))
    assert tuple(map(int, re.findall(r"\d+", declared))) == FLOORS[name]


@pytest.mark.parametrize(
    "name, installed", [("torch", "2.11.0+cpu"), ("torch", "2.11"), ("torch", "3.0"), ("transformers", "5.17.0rc1")]
)
def test_new_enough(name, installed, fresh, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda asked: installed if asked == name else "99.0")
    require_versions()


@pytest.mark.parametrize("name, installed", [("torch", "2.10.1+cpu"), ("torch", "1.99"), ("transformers", "5.9.3")])
def test_too_old(name, installed, fresh, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda asked: installed if asked == name else "99.0")
    least = ".".join(map(str, FLOORS[name]))
    with pytest.raises(InputError) as error:
        require_versions()
    expected = f"{name} {least} or newer is needed, {installed} is installed (pip install -U {name})"
    assert str(error.value) == expected


def test_missing(fresh, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(InputError, match=r"^torch 2.11 or newer is needed and is not installed \(pip install torch\)$"):
        require_versions()


def test_a_system_without_file_locks_is_refused(fresh, monkeypatch):
    monkeypatch.setattr("hypergen.runtime.dependencies.is_installed", lambda module: module != "fcntl")
    with pytest.raises(InputError, match=r"^this system has no file locks \(fcntl\)"):
        require_versions()
