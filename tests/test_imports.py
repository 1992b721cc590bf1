"""Who may import whom, read from the source. Alone: pytest tests/test_imports.py"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hypergen

PACKAGE = Path(hypergen.__file__).parent
CORE = sorted(PACKAGE.glob("*.py"))
TEXT, IMAGE = (sorted((PACKAGE / name).glob("*.py")) for name in ("text", "image"))
STANDARD_LIBRARY_ONLY = ["config.py", "errors.py", "text/config.py", "image/config.py"]
LIGHT = [
    "hypergen",
    "hypergen.config",
    "hypergen.errors",
    "hypergen.text.config",
    "hypergen.image.config",
    "hypergen.cli",
]


def name_of(path):
    return str(path.relative_to(PACKAGE))


def imported(path):
    """Full names of all that a file imports, anywhere in it; `from a import b` gives `a` and `a.b`."""
    package = ["hypergen", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*origin, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def under(names, *roots):
    """Those names that are one of the roots or inside it."""
    return {name for name in names if any(f"{name}.".startswith(f"{root}.") for root in roots)}


def test_the_walk_sees_every_kind_of_import(tmp_path, monkeypatch):
    path = PACKAGE / "text" / "probe.py"
    source = "import a.b, c\ndef f():\n    from d import e\n    from . import g\n    from ..h import i\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: source)
    expected = {"a.b", "c", "d", "d.e", "hypergen.text", "hypergen.text.g", "hypergen.h", "hypergen.h.i"}
    assert imported(path) == expected


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_core_knows_no_modality(path):
    forbidden = ("hypergen.text", "hypergen.image", "transformers", "diffusers", "PIL", "tests")
    assert not under(imported(path), *forbidden)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_only_the_registry_names_a_modality(path):
    """Not even as text to import later."""
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    named = {text for text in texts if isinstance(text, str) and text.startswith(("hypergen.text", "hypergen.image"))}
    assert not named or path.name == "registry.py"


@pytest.mark.parametrize("path", TEXT, ids=name_of)
def test_text_never_imports_image(path):
    assert not under(imported(path), "hypergen.image", "diffusers", "PIL", "torchvision")


@pytest.mark.parametrize("path", IMAGE, ids=name_of)
def test_image_never_imports_text(path):
    assert not under(imported(path), "hypergen.text", "tokenizers")


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_configuration_needs_only_the_standard_library(name):
    names = imported(PACKAGE / name) - under(imported(PACKAGE / name), "hypergen.errors", "hypergen.config")
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", [*CORE, *TEXT, *IMAGE], ids=name_of)
def test_nothing_is_pickled(path):
    """One place reads pickled weights, where the user says so, and only through the restricted unpickler."""
    assert not under(imported(path), "pickle", "torch.save", "torch.load", "joblib", "dill", "shelve", "marshal")
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [node for node in calls if ast.unparse(node.func) == "torch.save"]
    loads = [ast.unparse(node) for node in calls if ast.unparse(node.func) == "torch.load"]
    assert all("weights_only=True" in load for load in loads)
    assert len(loads) == (name_of(path) == "image/checkpoint.py")


@pytest.mark.parametrize("path", [*TEXT, *IMAGE], ids=name_of)
def test_an_adapter_uses_the_core_but_not_the_verbs(path):
    assert not under(imported(path), "hypergen.api", "hypergen.cli", "hypergen.report")


@pytest.mark.parametrize("module", LIGHT)
def test_imported_without_torch(module):
    if module == "hypergen.cli" and not (PACKAGE / "cli.py").exists():
        pytest.skip("there is no cli.py yet")
    heavy = "{'torch', 'transformers', 'diffusers', 'PIL', 'numpy', 'accelerate'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert shown.stdout.strip() == "[]"
