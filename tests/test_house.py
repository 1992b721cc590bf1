"""The house keeps its own rules: a test file a module, documented functions, dependencies that are used.

Alone: pytest tests/test_house.py
"""

import ast
import re
import statistics
import sys
import tomllib
from pathlib import Path

import pytest

import hypergen
from hypergen import registry

PACKAGE = Path(hypergen.__file__).parent
PROJECT = PACKAGE.parent
MODULES = sorted(
    path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")
)
PROJECT_FILE = tomllib.loads((PROJECT / "pyproject.toml").read_text())
IMPORT_NAMES = {"pillow": "PIL", "mauve-text": "mauve", "huggingface-hub": "huggingface_hub"}
NO_IMPERATIVE = """
    a an the what whatever whether how where which who whoever one that those these so as all any each every raises
    returns gives makes says takes of in on at is are its no nothing with for from
"""


def functions_of(path):
    """Every function and method of a file, nested ones included."""
    tree = ast.parse((PACKAGE / path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_property(node):
    return any("property" in ast.unparse(one) or "setter" in ast.unparse(one) for one in node.decorator_list)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_a_test_file_of_its_name(module):
    assert (PROJECT / "tests" / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_docstring_starts_with_an_imperative(module):
    """Ruff's D401 knows verbs in the wrong form; this knows the words that a private style would start with."""
    tree = ast.parse((PACKAGE / module).read_text())
    nodes = [
        node for node in (tree, *functions_of(module)) if not (isinstance(node, ast.FunctionDef) and is_property(node))
    ]
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in nodes:
        words = re.findall(r"[A-Za-z]+", ast.get_docstring(node) or "")
        assert not words or words[0].lower() not in NO_IMPERATIVE.split(), ast.get_docstring(node)


def test_functions_stay_short_documented_and_annotated():
    """No worse than before the house was rebuilt: median 6 lines, 68 % documented, 96 % annotated."""
    nodes = [node for module in MODULES for node in functions_of(module)]
    lengths = [node.end_lineno - node.lineno + 1 for node in nodes]
    assert statistics.median(lengths) <= 6
    assert sum(ast.get_docstring(node) is not None for node in nodes) >= 0.68 * len(nodes)
    assert sum(node.returns is not None for node in nodes) >= 0.96 * len(nodes)


def requirement_names(requirements):
    return {re.match(r"[\w.-]+", one)[0].lower() for one in requirements}


def imported_libraries():
    """The first part of every library that a file of the package imports, in functions, too."""
    roots = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add((node.module or "").split(".")[0])
    return roots - sys.stdlib_module_names - {"hypergen"}


def optional_dependencies():
    """Import name -> what to install, over all adapters."""
    adapters = [registry.adapter(name) for name in registry.MODALITIES]
    return {name: what for adapter in adapters for name, what in adapter.OPTIONAL_DEPENDENCIES.items()}


def test_every_declared_dependency_is_imported_and_every_import_declared():
    declared = {IMPORT_NAMES.get(name, name) for name in requirement_names(PROJECT_FILE["project"]["dependencies"])}
    assert imported_libraries() - optional_dependencies().keys() == declared


def test_optional_libraries_are_declared_as_they_are_named_to_users():
    extras = PROJECT_FILE["project"]["optional-dependencies"]
    declared = {one for name, some in extras.items() if name not in ("test", "dev") for one in some}
    assert set(optional_dependencies().values()) == declared


def test_nobody_is_told_to_install_a_stranger_s_package():
    """`hypergen` and `hyperfit` on the package index are other people's projects."""
    pages = [
        path
        for kind in ("*.md", "*.py", "*.json")
        for path in (*PACKAGE.rglob(kind), *PROJECT.glob(f"benchmarks/**/{kind}"))
    ]
    pages += [path for kind in ("*.md", "docs/*.md", "docs/*.ipynb") for path in PROJECT.glob(kind)]
    wrong = re.compile(r"pip install (-\S+ )*\\?['\"]?(hypergen|hyperfit)\b")
    assert [str(page) for page in pages if wrong.search(page.read_text(encoding="utf-8"))] == []
    assert PROJECT_FILE["project"]["name"] == "hyperfitting"


def test_every_file_of_the_map_exists_and_every_module_is_on_it():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    map_block = re.search(r"```\nhypergen/\n(.*?)```", readme, re.DOTALL)[1]
    named, folder = set(), ""
    for line in map_block.splitlines():
        entry = re.match(r"( *)([\w./]+)", line)
        if entry is None or line.startswith(("benchmarks/", "tests/")):
            continue
        depth, name = len(entry[1]) // 2, entry[2]
        if name.endswith("/"):
            folder = name if depth == 1 else folder
        else:
            named.add(Path(folder if depth == 2 else "") / name)
    python = {path for path in named if path.suffix == ".py"}
    assert python == {path for path in MODULES} | {Path("__init__.py"), Path("__main__.py")}
    assert all((PACKAGE / path).exists() for path in named)
