"""What does not fit together, or is not there, is one line and exit 2, and nothing is written or lost. What is bad in
itself (matrix D) is in `tests/faults`. Alone: pytest tests/test_bad_input.py"""

import json
import re

import pytest

from hypergen.cli import main as cli
from tests.conftest import FIT

pytestmark = pytest.mark.usefixtures("offline")


# Data


@pytest.mark.parametrize("name", ["nowhere.jsonl", "", "hub:", "x" * 300 + ".txt"])
def test_no_such_data(name, refused_fit):
    refused_fit(data=name)


def test_too_few_sequences_names_both_numbers(refused_fit):
    assert re.search(r"--num-samples 999: only \d+ sequences", refused_fit("--num-samples", "999", model_needed=True))


def test_bad_data_for_a_new_base(refused, tmp_path):
    (tmp_path / "short.txt").write_text("One.\n<|endoftext|>\nTwo.\n")
    common = ["pretrain", "--modality", "text", "--device", "cpu", "--output", "base", "--steps", "1"]
    for data in ("nowhere.txt", "short.txt"):
        refused(*common, "--data", data)
    assert "--width 10" in refused(*common, "--data", "short.txt", "--width", "10", "--num-heads", "4")
    assert "modality 'audio'" in refused("pretrain", "--modality", "audio", "--data", "a", "--output", "b")


# Models


@pytest.mark.parametrize("model", ["nowhere", "no/such/folder", "file", "empty", "", "x" * 300])
def test_no_such_model(model, refused_fit, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for modality in ([], ["--modality", "text"]):
        refused_fit(*modality, model=model, model_needed=True)


def test_an_empty_value_is_not_the_default(refused_fit, refused):
    for name in ("--model", "--data", "--prompts", "--output", "--modality"):
        assert f"{name}: is empty" in refused_fit(name, "")
    assert "RUN: is empty" in refused("generate", "", "--prompt", "a")
    assert "--output: is empty" in refused("evaluate", "RUN", "--output", "")


def test_a_base_is_no_run(refused, text_base):
    assert "only a hyperfitted run has it" in refused("evaluate", text_base)
    refused("evaluate", "x" * 300)


# Values


BAD_VALUES = {
    "--last-layers 5": "--last-layers 5: the model has 4 blocks",
    "--sequence-length 65": "--sequence-length 65: the context",
    "--prompt-length 16": "--prompt-length 16: must be below --sequence-length 16",
    "--max-new-tokens 99": "exceed the context of 64",
    "--modality audio": "--modality audio",
    "--modality image": "--modality image",
    "--prompt-fraction 0.25": "--prompt-fraction: not an option of modality 'text'",
}


@pytest.mark.parametrize("arguments", BAD_VALUES)
def test_bad_values(arguments, refused_fit):
    assert BAD_VALUES[arguments] in refused_fit(*arguments.split(), model_needed=True)


BAD_DECODING = {
    "--strategy best": "best",
    "--count 3": "--count 3: there are 2 prompts",
    "--prompts a.txt": "--prompt and --prompts: give one of them",
    "--mirror": "--mirror: not an option of modality 'text'",
    "--max-new-tokens 64": "prompt 1:",
}


@pytest.mark.parametrize("arguments", BAD_DECODING)
def test_bad_decoding(arguments, refused, text_base):
    common = ["generate", text_base, "--prompt-length", "4", "--device", "cpu"]
    assert BAD_DECODING[arguments] in refused(*common, "--prompt", "one", "two", *arguments.split())


def test_no_last_layers_means_all(text_base, text_data, tmp_path):
    common = ["fit", "--model", text_base, "--data", text_data, *FIT, "--output", "run", "--learning-rate", "1e-3"]
    assert cli.main([*common, "--last-layers", "0"]) == 0
    assert json.loads((tmp_path / "run" / "hypergen.json").read_text())["config"]["last_layers"] == 0


# Places


def test_outputs_that_are_refused(refused_fit, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for output, said in {"file": "is a file", "full": "is not empty", "file/below": "Not a directory"}.items():
        assert said in refused_fit("--output", output)
    assert "is not a run of hypergen" in refused_fit("--output", "full", "--resume")
    refused_fit("--output", "x" * 300)


def test_everything_cheap_is_refused_before_a_model_is_loaded(refused_fit, tmp_path):
    (tmp_path / "file").touch()
    for arguments in ("--output file", "--device mps", "--prompts nowhere.txt", "--image-size 32", "--config nowhere"):
        refused_fit(*arguments.split())
    refused_fit(data="nowhere.txt")
