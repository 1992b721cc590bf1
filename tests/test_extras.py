"""Optional libraries: one line says what is missing. Alone: pytest tests/test_extras.py"""

import json
import tomllib
from pathlib import Path

import pytest

from hypergen import extras
from hypergen.errors import InputError


def test_a_module_is_imported_on_use(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "json", "some")
    assert extras.load("json.decoder", "X") is json.decoder


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "no_such_library", "some")
    assert not extras.is_installed("no_such_library")
    with pytest.raises(InputError) as error:
        extras.load("no_such_library.inner", "KID")
    assert str(error.value) == "KID: needs no_such_library (pip install 'hypergen[some]')"


def test_every_extra_exists():
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(extras.EXTRAS.values()) <= declared["project"]["optional-dependencies"].keys()
