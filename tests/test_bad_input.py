"""A mistake is one line and exit 2, and nothing is written or lost. Alone: pytest tests/test_bad_input.py"""

import json
import re
import shutil

import pytest

from hypergen import api, cli

pytestmark = pytest.mark.usefixtures("offline")
GOOD = ["--device", "cpu", "--sequence-length", "16", "--prompt-length", "4", "--num-samples", "8", "--epochs", "1"]


@pytest.fixture
def fit(refused, text_base, text_data):
    """A fit of a text base that would work but for these arguments."""

    def run(*arguments, model=text_base, data=text_data):
        return refused("fit", "--model", model, "--data", data, *GOOD, *arguments)

    return run


# Data


BAD_DATA = {
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \n\n", "has no text"),
    "latin.txt": (b"caf\xe9 ole", "not UTF-8 at byte 3"),
    "cut.txt": (b"ab\xe2\x82", "not UTF-8 at byte 2"),
    "nul.txt": (b"ab\0c", "NUL byte at byte 2"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "caf\xe9"}', "latin.jsonl:2: not UTF-8"),
    "field.jsonl": (b'{"text": "a"}\n{"txt": "b"}', "field.jsonl:2: has no field 'text'"),
    "null.jsonl": (b'{"text": null}', "null.jsonl:1: field 'text' is null"),
    "list.jsonl": (b"[1]", "list.jsonl:1: is an array"),
    "broken.jsonl": (b'{"text": "a"', "broken.jsonl:1: not JSON"),
    "empty.jsonl": (b"", "is empty"),
    "few.jsonl": (b'{"text": "far too short"}\n' * 9, "--num-samples 8: only 0 sequences of 16 tokens"),
    "table.csv": (b"text\na", "allowed are"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name, fit, tmp_path):
    content, said = BAD_DATA[name]
    (tmp_path / name).write_bytes(content)
    assert said in fit(data=name)
    assert said in fit("--prompts", name) or "none of" in fit("--prompts", name)


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.jsonl", ".", "", "hub:", "x" * 300 + ".txt", "loop.txt"])
def test_no_such_data(name, fit, tmp_path):
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    fit(data=name)


def test_too_few_sequences_names_both_numbers(fit):
    assert re.search(r"--num-samples 999: only \d+ sequences", fit("--num-samples", "999"))


def test_bad_data_for_a_new_base(refused, tmp_path):
    (tmp_path / "short.txt").write_text("One.\n<|endoftext|>\nTwo.\n")
    common = ["pretrain", "--modality", "text", "--device", "cpu", "--output", "base", "--steps", "1"]
    for data in ("nowhere.txt", "short.txt"):
        refused(*common, "--data", data)
    assert "--width 10" in refused(*common, "--data", "short.txt", "--width", "10", "--num-heads", "4")
    assert "modality 'audio'" in refused("pretrain", "--modality", "audio", "--data", "a", "--output", "b")


# Models


def broken_model(base, folder, damage):
    shutil.copytree(base, folder)
    damage(folder)
    return str(folder)


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def change_config(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


BAD_MODELS = {
    "without config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "config no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "unknown type": (change_config(model_type="nonsense"), "config.json cannot be read"),
    "pickle only": (pickle_only, "only pickled weights"),
    "without weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "weights cannot be loaded"),
    "without tokenizer": (lambda folder: [path.unlink() for path in folder.glob("token*")], "no tokenizer"),
    "other sizes": (change_config(hidden_size=64), "weights"),
    "record no JSON": (lambda folder: (folder / "hypergen.json").write_text("{"), "hypergen.json: is not JSON"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model_folders(name, fit, refused, text_base, tmp_path):
    damage, said = BAD_MODELS[name]
    model = broken_model(text_base, tmp_path / "model", damage)
    assert said in fit("--modality", "text", model=model)
    assert said in refused("generate", model, "--modality", "text", *GOOD[2:6], "--prompt", "a")


@pytest.mark.parametrize("model", ["nowhere", "no/such/folder", "file", "empty", ""])
def test_no_such_model(model, fit, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for modality in ([], ["--modality", "text"]):
        fit(*modality, model=model)


def test_an_empty_value_is_not_the_default(fit, refused):
    for name in ("--model", "--data", "--prompts", "--output", "--modality"):
        assert f"{name}: is empty" in fit(name, "")
    assert "--run: is empty" in refused("generate", "", "--prompt", "a")
    assert "--output: is empty" in refused("evaluate", "RUN", "--output", "")


def test_a_base_is_no_run(refused, text_base):
    assert "only a hyperfitted run has it" in refused("evaluate", text_base)


# Values


BAD_VALUES = {
    "--epochs 0": "--epochs 0: must be a whole number, 1 or more",
    "--epochs -3": "--epochs -3",
    "--num-samples 0": "--num-samples 0",
    "--batch-size 0": "--batch-size 0",
    "--learning-rate nan": "--learning-rate nan: must be a finite number above 0",
    "--learning-rate -1": "--learning-rate -1.0",
    "--learning-rate inf": "--learning-rate inf",
    "--target-loss -1": "--target-loss -1.0: must be finite, 0 nats per token or more",
    "--target-loss nan": "--target-loss nan",
    "--seed -1": "--seed -1",
    "--seed 18446744073709551616": "below 2^63",
    "--last-layers -1": "--last-layers -1",
    "--last-layers 5": "--last-layers 5: the model has 4 blocks",
    "--sequence-length 65": "--sequence-length 65: the context",
    "--sequence-length 1": "--sequence-length 1",
    "--prompt-length 16": "--prompt-length 16: must be below --sequence-length 16",
    "--max-new-tokens 99": "exceed the context of 64",
    "--device tape": "--device 'tape': must be auto",
    "--modality audio": "--modality audio",
    "--modality image": "--modality image",
    "--image-size 32": "--image-size: not an option of modality 'text'",
    "--prompt-fraction 0.25": "--prompt-fraction: not an option of modality 'text'",
    "--epoch 3": "did you mean --epochs?",
    "--precision fp8": "fp8",
}


@pytest.mark.parametrize("arguments", BAD_VALUES)
def test_bad_values(arguments, fit):
    assert BAD_VALUES[arguments] in fit(*arguments.split())


BAD_DECODING = {
    "--block-citations 1": "--block-citations 1: must be a whole number, 2 or more",
    "--top-p 0": "--top-p 0.0: must be above 0 and at most 1",
    "--top-p 1.1": "--top-p 1.1",
    "--temperature 0": "--temperature 0.0",
    "--top-k 0": "--top-k 0",
    "--strategy beam": "beam",
    "--count 3": "--count 3: there are 2 prompts",
    "--count 0": "--count 0",
    "--prompts a.txt": "--prompt and --prompts: give one of them",
    "--mirror": "--mirror: not an option of modality 'text'",
    "--max-new-tokens 64": "prompt 1:",
}


@pytest.mark.parametrize("arguments", BAD_DECODING)
def test_bad_decoding(arguments, refused, text_base):
    common = ["generate", text_base, "--sequence-length", "16", "--prompt-length", "4", "--device", "cpu"]
    assert BAD_DECODING[arguments] in refused(*common, "--prompt", "one", "two", *arguments.split())


def test_a_prompt_longer_than_the_context_is_named_by_its_number(refused, text_base):
    common = ["generate", text_base, "--sequence-length", "16", "--prompt-length", "4", "--device", "cpu"]
    said = refused(*common, "--prompt", "short", "long " * 99, "short")
    assert re.search(r"prompt 2: \d+ tokens; the context of 64 leaves room for at most 63", said)


def test_no_last_layers_means_all(text_base, text_data, tmp_path):
    common = ["fit", "--model", text_base, "--data", text_data, *GOOD, "--output", "run", "--learning-rate", "1e-3"]
    assert cli.main([*common, "--last-layers", "0"]) == 0
    assert json.loads((tmp_path / "run" / "hypergen.json").read_text())["config"]["last_layers"] == 0


# Places


def test_outputs_that_are_refused(fit, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for output, said in {"file": "is a file", "full": "is not empty", "file/below": "Not a directory"}.items():
        assert said in fit("--output", output)
    assert "is not a run of hypergen" in fit("--output", "full", "--resume")
    fit("--output", "x" * 300)


def test_bad_config_files(fit, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "unknown.toml").write_text("epoch = 3\n")
    assert "nowhere.json: cannot be read" in fit("--config", "nowhere.json")
    assert "bad.json: is not JSON" in fit("--config", "bad.json")
    assert "--epoch: unknown option" in fit("--config", "unknown.toml")


def test_everything_cheap_is_refused_before_a_model_is_loaded(fit, monkeypatch, tmp_path):
    from hypergen.text import modality

    def load(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(modality, "load", load)
    monkeypatch.setattr(api, "load", load)
    (tmp_path / "file").touch()
    for arguments in ("--output file", "--device mps", "--prompts nowhere.txt", "--image-size 32", "--epochs 0"):
        fit(*arguments.split())
    fit(data="nowhere.txt")
