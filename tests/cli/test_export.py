"""`hypergen export`: a file beside the run, or what is missing in one line. Alone: pytest tests/cli/test_export.py"""

import json
import shutil
from pathlib import Path

import pytest

import hypergen
from hypergen.cli import main as cli
from tests.conftest import tree
from tests.image import tiny as tiny_image
from tests.storage.faulty_disk import flip


@pytest.fixture(autouse=True)
def _offline(offline):
    pass


def export(*arguments):
    assert cli.main(["export", *map(str, arguments)]) == 0


def test_the_file_lies_in_the_run_s_folder(toy_run, tmp_path, capsys):
    shutil.copytree(toy_run, tmp_path / "run")
    before = tree(tmp_path / "run")
    export("run")
    assert capsys.readouterr().out == "wrote run/run-count.json\n"
    after = tree(tmp_path / "run")
    assert after.keys() - before.keys() == {"run-count.json"} and {name: after[name] for name in before} == before
    written = json.loads(after["run-count.json"])
    assert (written["title"], written["type"]) == ("run-count", "count") and written["weights"]
    export("run", "--format", "sizes", "--type", "sum", "--verify")  # the manifest still holds
    assert json.loads(Path("run/run-sum.json").read_text())["type"] == "sum"


def test_json_names_the_file(toy_run, tmp_path, capsys):
    export(toy_run, "--output", tmp_path / "a.json", "--json")
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "a.json")}


def test_output_names_the_file(toy_run, tmp_path, capsys):
    export(toy_run, "--output", tmp_path / "a.JSON")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.JSON'}\n"
    assert json.loads((tmp_path / "a.JSON").read_text())["title"] == "a"


def test_a_model_without_a_folder_is_written_into_the_working_folder(tmp_path, registered):
    export("toy-zero")
    assert [path.name for path in tmp_path.iterdir()] == ["toy-zero-count.json"]


def test_python_does_the_same(toy_run, tmp_path):
    run = hypergen.load(toy_run, device="cpu")
    file = run.export(type="sum", output=tmp_path / "a.json")
    export(toy_run, "--type", "sum", "--output", "b.json")
    assert file == tmp_path / "a.json"
    assert json.loads(file.read_text())["weights"] == json.loads(Path("b.json").read_text())["weights"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--format", "gguf"], "--format gguf: modality 'toy' is exported to sizes"),
        (["--type", "f32"], "--type f32: must be count or sum"),
        (["--output", "a.txt"], "--output a.txt: must end in .json"),
        (["--output", "no/a.json"], "--output no/a.json: folder no does not exist"),
        (["--output", "there.json"], "--output there.json: exists already"),
        (["--output", ""], "--output: is empty"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(arguments, said, toy_run, tmp_path, refused, monkeypatch):
    (tmp_path / "there.json").write_text("{}")
    monkeypatch.setattr("hypergen.api.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert said in refused("export", toy_run, *arguments)


def test_a_file_that_is_there_stays(toy_run, tmp_path, refused, capsys):
    shutil.copytree(toy_run, tmp_path / "run")
    export("run")
    capsys.readouterr()
    assert refused("export", "run") == "hypergen: --output run/run-count.json: exists already"


def test_a_modality_without_a_format(tmp_path, refused):
    tiny_image.base("colors").save(tmp_path / "pictures")
    assert refused("export", "pictures") == "hypergen: export: modality 'image' is exported to no format"
    said = "hypergen: --format gguf: modality 'image' is exported to no format"
    assert refused("export", "pictures", "--format", "gguf") == said


def test_no_such_run(refused):
    assert "no such folder" in refused("export", "nowhere")


def test_a_damaged_run_is_found_with_verify(toy_run, tmp_path, capsys):
    shutil.copytree(toy_run, tmp_path / "run")
    flip(tmp_path / "run" / "held_out_tokens.safetensors")
    assert cli.main(["export", "run", "--verify"]) == 3
    assert "held_out_tokens.safetensors: missing, or its content is not" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run-count.json").exists()


def test_a_text_run_becomes_a_gguf_file_that_is_a_model(text_run, tmp_path, capsys):
    pytest.importorskip("gguf")
    export(text_run, "--output", "a.gguf")
    export(text_run, "--format", "gguf", "--type", "q8_0", "--output", "b.gguf")
    assert Path("b.gguf").stat().st_size < 0.6 * Path("a.gguf").stat().st_size
    capsys.readouterr()
    shown = {}
    for model in (text_run, "a.gguf", "b.gguf"):
        prompt = ["--prompt", "The ferryman", "--max-new-tokens", "12", "--device", "cpu"]
        assert cli.main(["generate", model, *prompt]) == 0
        shown[model] = capsys.readouterr().out
    assert shown["a.gguf"] == shown[text_run] and shown["b.gguf"]


def test_a_model_that_the_format_has_no_equal_of(tmp_path, refused):
    pytest.importorskip("gguf")
    from tests.text import tiny as tiny_text

    tiny_text.modality("gpt2").save(tmp_path / "model")
    said = refused("export", "model")
    assert said.startswith("hypergen: --format gguf: the model's type is gpt2; it must be one of llama, ")
