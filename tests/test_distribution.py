"""The source distribution is whole: every test, every page, and whatever a page links to.

Alone: pytest tests/test_distribution.py
"""

import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "runs", ".*_cache")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def has_build_backend():
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Names of the files in a source distribution made by the project's own build backend."""
    if not has_build_backend():
        pytest.skip("needs the setuptools that pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(PROJECT, folder / "project", ignore=LEFT_OUT)
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=folder / "project", capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    with tarfile.open(folder / made.stdout.splitlines()[-1]) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def files_of(folder, pattern="*"):
    found = (path for path in (PROJECT / folder).rglob(pattern) if path.is_file())
    return {str(path.relative_to(PROJECT)) for path in found if "__pycache__" not in path.parts}


def test_every_file_of_tests_docs_and_benchmarks_is_in_it(sdist):
    assert files_of("tests") | files_of("docs") | files_of("benchmarks") <= sdist
    assert files_of("hypergen") <= sdist
    assert not [name for name in sdist if name.endswith(".pyc")]


def test_every_link_of_a_page_leads_to_something_in_it(sdist):
    folders = {str(parent) for name in sdist for parent in Path(name).parents}
    pages = [name for name in sdist if name.endswith(".md")]
    assert {"README.md", "CONTRIBUTING.md", "docs/faq.md", "benchmarks/README.md"} <= set(pages)
    for page in pages:
        for target in LINK.findall((PROJECT / page).read_text(encoding="utf-8")):
            place = (PROJECT / page).parent.joinpath(target).resolve().relative_to(PROJECT.resolve())
            assert str(place) in sdist | folders, f"{page}: {target}"


def test_pages_of_the_wheel_link_to_files_of_the_wheel():
    for page in (PROJECT / "hypergen").rglob("*.md"):
        targets = [(page.parent / target).resolve() for target in LINK.findall(page.read_text(encoding="utf-8"))]
        assert all(target.exists() and target.is_relative_to(PROJECT / "hypergen") for target in targets), page


def test_the_citation_names_the_paper_and_nobody_who_is_made_up():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [{"name": "The hypergen contributors"}]
    assert {"cff-version", "message", "title", "type", "license"} <= citation.keys()
    assert not {"doi", "repository-code", "url", "identifiers"} & citation.keys()
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2412.04318"
