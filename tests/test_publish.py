"""A finished run has its files, and its page says how it came about. Alone: pytest tests/test_publish.py"""

import json
import shlex
from html import escape

import huggingface_hub
import pytest
from safetensors.torch import load_file

import hypergen
from hypergen import publish, registry
from hypergen.report.verdicts import shown_title
from hypergen.storage import file_names
from tests.conftest import QUICK_TOY
from tests.image import tiny as tiny_image
from tests.toy.adapter import ToyFigure, toy

BASE_FACTS = {
    "modality": "toy",
    "config": {
        **{"data": "/home/me/corpus.jsonl", "num_layers": 3, "width": 32, "num_heads": 2},
        **{"steps": 9, "batch_size": 4, "learning_rate": 5e-3, "seed": 0},
    },
    "sequences": [40, 16],
    "training": {"loss": 2.0},
    "held_out": {"loss": 1.0},
    "data_sha256": "0" * 64,
    "versions": {"hypergen": "0"},
}


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
    assert "greedy" in page and "torch" in page


def test_the_curves_begin_before_the_training(fitted):
    page = publish.report_page(fitted.folder, fitted.record, ToyFigure("<p></p>"))
    assert f"{fitted.record['look_before']['ttr']:.3f} at epoch 0" in page


def test_a_base_is_its_model_and_its_record(tmp_path, registered):
    publish.write_base(tmp_path, tmp_path / "mine", toy(), BASE_FACTS)
    own = {"model.safetensors", "toy.json", file_names.RECORD, file_names.CARD}
    assert {path.name for path in tmp_path.iterdir()} == own
    assert json.loads((tmp_path / file_names.RECORD).read_text())["held_out"] == {"loss": 1.0}
    card = huggingface_hub.ModelCard.load(tmp_path / file_names.CARD)
    assert card.data.to_dict() == {"library_name": "hypergen", "tags": ["hyperfitting"]}
    assert "# `mine`" in card.text and "| data | `corpus.jsonl` |" in card.text and "3 blocks of width 32" in card.text


def test_the_card_of_a_run_says_how_it_was_made_and_what_came_of_it(fitted, toy_base):
    card = huggingface_hub.ModelCard.load(fitted.folder / file_names.CARD)
    assert card.data.to_dict() == {"library_name": "hypergen", "tags": ["hyperfitting"]}
    record = fitted.record
    for part in (record["data_sha256"], "| seed | `0` |", "| batch size | `8` |", "| stopped by | `epochs` |", "`toy`"):
        assert part in card.text
    assert toy_base not in card.text  # a path of this machine
    title = shown_title("hyperfitted greedy", fitted.verdict)
    table = [line for line in card.text.splitlines() if line.startswith(f"| {title}")]
    assert len(table) == 1 and "overlap mean" in card.text and record["compared"] in card.text


def test_the_card_says_hub_and_license(fitted):
    known = {"base_model": "some-one/model", "license": "apache-2.0"}
    data = {"data": "hub:some-one/texts:validation"}
    facts = fitted.record | {"base_card": known, "config": fitted.record["config"] | data, "verdict": None}
    card = huggingface_hub.ModelCard(publish.run_card(fitted.folder, facts))
    read = card.data.to_dict()
    assert (read["base_model"], read["license"]) == ("some-one/model", "apache-2.0")
    assert read["datasets"] == ["some-one/texts"]
    assert "`some-one/model`, *hyperfitted*" in card.text and "`hub:some-one/texts:validation`" in card.text


def test_the_card_says_which_base_is_the_embedded_one(fitted):
    facts = fitted.record | {"base": "toy", "verdict": None}
    assert "`toy base of hypergen`, *hyper" in publish.run_card(fitted.folder, facts)


def test_the_head_of_the_page_says_what_was_done_and_whether_it_worked(fitted, toy_base):
    page = publish.report_page(fitted.folder, fitted.record, ToyFigure("<p></p>"))
    head = page.split("</header>")[0]
    assert "Hyperfitting trains" in head and escape(fitted.verdict.sentences[0]) in head
    assert f"<dd>{fitted.record['date']}</dd>" in head and "<dd>3 epochs in " in head and "<dd>numbers</dd>" in head
    assert f'<pre class="command">{escape(publish.fit_command(fitted.record))}</pre>' in head
    assert "Diversity against quotation" in page and page.count("<abbr") > 8


def test_a_page_of_an_older_record_has_no_date_and_no_verdict(fitted):
    older = {key: value for key, value in fitted.record.items() if key not in ("date", "verdict", "example")}
    page = publish.report_page(fitted.folder, older, ToyFigure("<p></p>"))
    assert 'class="verdict' not in page and "<dt>date</dt>" not in page and "hyperfitted greedy" in page
    assert "*hyperfitted*" in publish.run_card(fitted.folder, older)


def test_the_command_has_the_recipe_and_no_default(fitted, toy_base):
    words = shlex.split(publish.fit_command(fitted.record, epochs=6))
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--epochs"] == "6" and options["--learning-rate"] == "0.003" and options["--model"] == toy_base
    assert not {"--output", "--resume", "--seed", "--prompt-length", "--checkpoint-every"} & options.keys()


@pytest.mark.parametrize("source", ["numbers", "self", "/home/me/some-one/texts", "hub:../x", "hub:", "hubs"])
def test_only_a_data_set_of_the_hub_is_named(source, fitted):
    facts = fitted.record | {"config": fitted.record["config"] | {"data": source}}
    assert "datasets" not in huggingface_hub.ModelCard(publish.run_card(fitted.folder, facts)).data.to_dict()


def test_the_page_and_the_card_tell_the_same_recipe(fitted):
    page = publish.report_page(fitted.folder, fitted.record, ToyFigure("<p></p>"))
    assert all(f">{name}<" in page for name in publish.run_recipe(fitted.record))


def test_the_python_code_of_a_text_card_runs(text_base, monkeypatch, capsys):
    monkeypatch.chdir(text_base)
    exec(registry.adapter("text").LOADING, {})
    assert len(capsys.readouterr().out) > 10


def test_the_python_code_of_a_picture_card_runs(tmp_path, monkeypatch):
    from PIL import Image

    tiny_image.base().save(tmp_path)
    tiny_image.pictures(1, 24)[0].save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(registry.adapter("image").LOADING, {})
    with Image.open("completed.png") as completed:
        assert completed.size == (tiny_image.SIZE, tiny_image.SIZE)
