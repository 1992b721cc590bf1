"""A finished run has its files, and its page says how it came about. Alone: pytest tests/test_publish.py"""

import json

import pytest
from safetensors.torch import load_file

import hypergen
from hypergen import publish
from hypergen.storage import file_names
from tests.conftest import QUICK_TOY
from tests.toy.adapter import ToyFigure, toy


@pytest.fixture(scope="module")
def fitted(toy_base, tmp_path_factory):
    return hypergen.fit(model=toy_base, output=str(tmp_path_factory.mktemp("runs") / "toy"), **QUICK_TOY)


def test_the_record_and_the_sequences_are_what_was_compared(fitted):
    record = json.loads((fitted.folder / file_names.RECORD).read_text())
    assert record["comparison"] == fitted.records and record["modality"] == "toy"
    tokens = load_file(fitted.folder / file_names.TRAINING_TOKENS)["tokens"]
    assert list(tokens.shape) == record["sequences"]
    assert len(list((fitted.folder / file_names.SAMPLES).iterdir())) == QUICK_TOY["held_out_samples"]


@pytest.mark.parametrize("last_layers, said", [(0, "all layers"), (2, "last 2 blocks")])
def test_the_page_says_what_was_trained_with_which_numbers(fitted, last_layers, said):
    facts = fitted.record | {"config": fitted.record["config"] | {"last_layers": last_layers}}
    page = publish.report_page(fitted.folder, facts, ToyFigure("<table><tr><td>figure</td></tr></table>"))
    assert said in page and "<td>figure</td>" in page
    assert f"{round(fitted.record['training']['loss'], 3):.6g}" in page
    assert "training token accuracy" in page and f"{round(fitted.record['training']['accuracy'], 3):.6g}" in page
    assert "hyperfitted greedy" in page and "torch" in page


def test_the_curves_begin_before_the_training(fitted):
    page = publish.report_page(fitted.folder, fitted.record, ToyFigure("<p></p>"))
    assert f"{fitted.record['look_before']['ttr']:.3f} at epoch 0" in page


def test_a_base_is_its_model_and_its_record(tmp_path, registered):
    publish.write_base(tmp_path, toy(), {"modality": "toy", "held_out": {"loss": 1.0}})
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "toy.json", file_names.RECORD}
    assert json.loads((tmp_path / file_names.RECORD).read_text())["held_out"] == {"loss": 1.0}
