"""The version stands once. Alone: pytest tests/test_version.py"""

import re
import tomllib
from pathlib import Path

import hypergen
from hypergen.version import __version__


def test_the_package_and_its_metadata_have_the_one_version():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hypergen.version.__version__"}
    assert hypergen.__version__ == __version__ and re.fullmatch(r"\d+\.\d+\.\d+", __version__)
