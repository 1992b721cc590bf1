"""Who may import whom, read from the source of every file, imports for type checkers included.

Alone: pytest tests/test_imports.py
"""

import ast
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hypergen

PACKAGE = Path(hypergen.__file__).parent
FOUNDATION = ("errors", "version", "config", "modality")
SUPPORT = (*FOUNDATION, "kernels", "runtime", "storage", "data")
WORK = (*SUPPORT, "training", "decoding")
ALLOWED = {
    # The first part of a module's name -> what it may import of hypergen; DESIGN: who may import whom.
    "errors": (),
    "version": (),
    "config": ("errors",),
    "modality": ("config", "errors"),
    "kernels": ("kernels", "runtime.cache_folder"),
    "runtime": (*FOUNDATION, "runtime"),
    "storage": (*FOUNDATION, "kernels", "runtime", "storage"),
    "data": SUPPORT,
    "report": ("report", "runtime.console", "modality", "config"),
    "training": (*SUPPORT, "training"),
    "decoding": (*SUPPORT, "decoding"),
    "text": (*WORK, "text"),
    "image": (*WORK, "image"),
    "evaluation": (*WORK, "report", "evaluation"),
    "registry": (*SUPPORT, "registry"),
    "testing": (*FOUNDATION, "registry"),
    "options": (*WORK, "evaluation", "registry", "objects"),
    "checks": (*SUPPORT, "registry", "options"),
    "keywords": ("config", "errors", "runtime.progress"),
    "objects": (*SUPPORT, "registry"),
    "publish": (*WORK, "evaluation", "report", "registry"),
    "run": (*WORK, "evaluation", "report", "registry", "objects", "options", "keywords"),
    "api": (*WORK, "evaluation", "report", "registry", "objects", "options", "checks", "keywords", "publish", "run"),
    "cli": (*WORK, "evaluation", "report", "registry", "options", "checks", "publish", "run", "api", "cli"),
    "__main__": ("cli",),
}
LIBRARIES_OF_A_MODALITY = ("transformers", "diffusers", "PIL", "tokenizers", "torchvision")
FORBIDDEN_LIBRARIES = {
    "text": ("diffusers", "PIL", "torchvision"),
    "image": ("tokenizers", "transformers"),
    "report": ("torch", "numpy", *LIBRARIES_OF_A_MODALITY),
}
STANDARD_LIBRARY_ONLY = ("config", "errors", "text.config", "image.config")
TORCH_ONLY = "kernels"
LIGHT = (
    *("hypergen", "hypergen.config", "hypergen.modality", "hypergen.text.config"),
    *("hypergen.options", "hypergen.checks", "hypergen.cli.main"),
)


def files_of(package):
    """Dotted name below `hypergen` -> file; the package's own `__init__` only names what is imported when asked for."""
    names = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items() if name != "__init__"}


FILES = files_of(PACKAGE)


def imported(path, package=PACKAGE):
    """Full names of all that a file imports, anywhere in it; `from a import b` gives `a` and `a.b`."""
    inside = ["hypergen", *path.relative_to(package).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*origin, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def under(names, *roots):
    """Those names that are one of the roots or inside it."""
    return {name for name in names if any(f"{name}.".startswith(f"{root}.") for root in roots)}


def own_modules(names, files):
    """The modules of hypergen among these names, without the prefix."""
    return {name.removeprefix("hypergen.") for name in under(names, "hypergen")} & files.keys()


def violations(package):
    """`module -> module` for every import that the table does not allow."""
    files = files_of(package)
    found = []
    for name, path in files.items():
        allowed = ALLOWED[name.split(".")[0]]
        modules = own_modules(imported(path, package), files)
        found += [f"{name} -> {module}" for module in sorted(modules - under(modules, *allowed))]
    return found


def circle(package):
    """The modules of an import circle; none where there is no circle."""
    files = files_of(package)
    graph = {name: own_modules(imported(path, package), files) - {name} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_walk_sees_every_kind_of_import(monkeypatch):
    source = "import a.b, c\ndef f():\n    from d import e\n    from . import g\n    from ..h import i\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: source)
    expected = {"a.b", "c", "d", "d.e", "hypergen.text", "hypergen.text.g", "hypergen.h", "hypergen.h.i"}
    assert imported(PACKAGE / "text" / "probe.py") == expected


def test_the_walk_sees_every_folder():
    assert {name.split(".")[0] for name in FILES} == ALLOWED.keys()
    assert len(FILES) > 80


def test_nobody_imports_upward():
    assert violations(PACKAGE) == []


def test_there_is_no_circle():
    assert circle(PACKAGE) == []


@pytest.fixture
def copy(tmp_path):
    """The package without its assets, to plant something wrong in."""
    shutil.copytree(PACKAGE, tmp_path / "hypergen", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    return tmp_path / "hypergen"


PLANTED = {
    # Where, what, and the sentence that finds it.
    "training/loss.py": ("from hypergen.decoding.loop import generate", "training.loss -> decoding.loop"),
    "kernels/topk.py": ("from hypergen.runtime.console import warn", "kernels.topk -> runtime.console"),
    "text/tokenizer.py": ("def f():\n    import hypergen.image.pixels", "text.tokenizer -> image.pixels"),
    "storage/lock.py": ("if TYPE_CHECKING:\n    from hypergen import api", "storage.lock -> api"),
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_upward_import_is_found(copy, place):
    line, found = PLANTED[place]
    with (copy / place).open("a") as file:
        file.write(f"\n{line}\n")
    assert violations(copy) == [found]


def test_a_planted_circle_is_found(copy):
    with (copy / "storage" / "manifest.py").open("a") as file:
        file.write("\nif TYPE_CHECKING:\n    from hypergen.storage.atomic import publish\n")
    assert {"storage.manifest", "storage.atomic"} <= set(circle(copy))
    assert violations(copy) == []


@pytest.mark.parametrize("name", FILES)
def test_libraries(name):
    """The core knows no modality's library, an adapter not the other's, `kernels` only torch."""
    names, place = imported(FILES[name]), name.split(".")[0]
    assert not under(
        names, *FORBIDDEN_LIBRARIES.get(place, () if place in ("text", "image") else LIBRARIES_OF_A_MODALITY)
    )
    assert not under(names, "tests", "benchmarks")
    roots = {one.split(".")[0] for one in names} - {"hypergen"}
    if place == TORCH_ONLY:
        assert roots <= sys.stdlib_module_names | {"torch"}
    if name in STANDARD_LIBRARY_ONLY:
        assert roots <= sys.stdlib_module_names
        assert own_modules(names, FILES) <= {"config", "errors", "modality"}


@pytest.mark.parametrize(
    "name", [name for name in FILES if name != "registry" and name.split(".")[0] not in ("text", "image")]
)
def test_only_the_registry_names_a_modality(name):
    """Not even as text to import later."""
    texts = {node.value for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.Constant)}
    assert not [
        text for text in texts if isinstance(text, str) and text.startswith(("hypergen.text", "hypergen.image"))
    ]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_pickled(name):
    """One place reads pickled weights, where the user says so, and only through the restricted unpickler."""
    path = FILES[name]
    assert not under(imported(path), "pickle", "torch.save", "torch.load", "joblib", "dill", "shelve", "marshal")
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [node for node in calls if ast.unparse(node.func) == "torch.save"]
    loads = [ast.unparse(node) for node in calls if ast.unparse(node.func) == "torch.load"]
    assert all("weights_only=True" in load for load in loads)
    assert len(loads) == (name == "image.checkpoint")


@pytest.mark.parametrize("module", LIGHT)
def test_imported_without_torch(module):
    heavy = "{'torch', 'transformers', 'diffusers', 'PIL', 'numpy', 'accelerate'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert shown.stdout.strip() == "[]"
