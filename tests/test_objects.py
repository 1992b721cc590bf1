"""Lists, tables, tensors and models are taken where the command line has names. Alone: pytest tests/test_objects.py"""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import hypergen
from hypergen import objects, registry
from hypergen.errors import InputError
from hypergen.objects import split_objects
from hypergen.storage.file_names import HELD_OUT_TOKENS
from tests.conftest import QUICK_TOY
from tests.image import tiny as tiny_image
from tests.text import tiny
from tests.toy.adapter import numbers
from tests.toy.config import Settings

ITEMS = numbers(60, Settings())
SMALL = {"sequence_length": 16, "prompt_length": 4, "num_samples": 8, "epochs": 1, "learning_rate": 1e-3}
SMALL |= {"device": "cpu", "held_out_samples": 4, "max_new_tokens": 4}
STORIES = [
    f"The ferryman rowed {n} times across the river and {n * 7} times back again, then slept." for n in range(48)
]


@pytest.fixture(autouse=True)
def _registered(registered):
    pass


def fit(toy_base, folder, **options):
    return hypergen.fit(model=toy_base, output=folder, **QUICK_TOY | {"epochs": 1} | options)


# Items.


def test_a_list_is_what_a_file_with_the_same_items_is(toy_base, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    from_file = fit(toy_base, tmp_path / "file", data=tmp_path / "a.jsonl")
    from_list = fit(toy_base, tmp_path / "list", data=ITEMS)
    assert from_list.tokens().equal(from_file.tokens()) and from_list.records == from_file.records
    assert from_list.record["config"]["data"] == "a list of 60"
    assert hypergen.load(tmp_path / "list", device="cpu").record["config"]["data"] == "a list of 60"
    assert "a list of 60" in (tmp_path / "list" / "report.html").read_text()


def test_prompts_are_a_list_too(toy_base, tmp_path):
    run = fit(toy_base, tmp_path / "run", data=ITEMS, prompts=tuple(numbers(30, Settings(), seed=5)))
    assert len(run.tokens(HELD_OUT_TOKENS)) == 8 and run.record["config"]["prompts"] == "a tuple of 30"
    with pytest.raises(InputError, match=r"^output .*run"):
        fit(toy_base, tmp_path / "run", data=ITEMS)


def test_a_dataframe_and_a_dataset_are_their_rows(toy_base, tmp_path):
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    expected = fit(toy_base, tmp_path / "list", data=ITEMS)
    for name, table in {
        "DataFrame": pandas.DataFrame({"numbers": ITEMS}),
        "Dataset": datasets.Dataset.from_dict({"numbers": ITEMS}),
    }.items():
        run = fit(toy_base, tmp_path / name, data=table)
        assert run.tokens().equal(expected.tokens()) and run.record["config"]["data"] == f"a {name} of 60"
    compared = hypergen.evaluate(expected, data=pandas.DataFrame({"numbers": numbers(9, Settings(), seed=6)}), count=3)
    assert len(compared.held_out) == 3
    with pytest.raises(InputError, match=r"^data: has several splits; name one, as in \['train'\]$"):
        fit(toy_base, tmp_path / "run", data=datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}))


def test_ids_are_trained_on_as_they_are(toy_base, tmp_path):
    ids = torch.randint(0, 16, (40, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 16
    run = fit(toy_base, tmp_path / "run", data=ids.int())
    known = {tuple(row) for row in ids.tolist()}
    trained, held_out = ({tuple(row) for row in part.tolist()} for part in (run.tokens(), run.tokens(HELD_OUT_TOKENS)))
    assert len(trained) == 24 and trained | held_out <= known and not trained & held_out
    assert run.record["config"]["data"] == "a tensor of 40 x 12 ids" and run.tokens().shape == (24, 12)


@pytest.mark.parametrize(
    "data, message",
    [
        (torch.zeros(3), r"data: must be a \(N, T\) tensor of whole numbers, found torch.float32 of shape \(3,\)"),
        (torch.full((40, 12), 99), "ids: has id 99; the model has ids from 0 to 17"),
        (torch.arange(16).expand(40, 16).repeat(1, 9), "ids: 144 a row; the model's context is 64 tokens"),
        (torch.zeros(9, 12).long(), "num_samples 24: there are only 7 sequences"),
        ({"train": ITEMS}, "data: is of type dict; allowed are a source's name, a list, "),
        (3, "data: is of type int; allowed are a source's name, a list, "),
        (b"numbers", "data: is of type bytes; allowed are"),
        ([], "data: has no items"),
        ([[1, 2], "a"], "a list of 2: holds a str; allowed are lists of numbers"),
    ],
)
def test_what_is_no_source_is_refused_in_a_line(data, message, toy_base, tmp_path):
    with pytest.raises(InputError, match=f"^{message}"):
        fit(toy_base, tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_pretrain_takes_items_and_no_ids(tmp_path):
    sizes = {"width": 8, "num_layers": 1, "num_heads": 1, "steps": 2, "device": "cpu", "modality": "toy"}
    base = hypergen.pretrain(data=ITEMS, held_out=numbers(9, Settings(), seed=5), output=tmp_path / "base", **sizes)
    assert base.record["sequences"][0] == 60
    with pytest.raises(InputError, match=r"^data: is a tensor of ids; pretrain makes the codec first"):
        hypergen.pretrain(data=torch.zeros(9, 12).long(), output=tmp_path / "other", **sizes)


def test_texts_and_rows_of_texts_are_taken(text_base, tmp_path):
    chats = [
        {"messages": [{"role": "user", "content": story}, {"role": "assistant", "content": story}]} for story in STORIES
    ]
    adapter, settings = registry.adapter("text"), registry.settings_class("text")()
    read = {"source": "a list", "settings": settings, "skip_bad": 0}
    assert adapter.read_rows(rows=STORIES, **read) == STORIES
    assert adapter.read_rows(rows=[{"text": one} for one in STORIES], **read) == STORIES
    assert len(adapter.read_rows(rows=chats, **read)) == 48
    assert adapter.read_rows(rows=["a", 3], **read | {"skip_bad": 1}) == ["a"]
    for rows, message in (
        (["a", 3], "a list: row 2: is of type int; a text, or a row with a field 'text' is needed"),
        ([{"txt": "a"}], r"a list: row 1: has no field 'text' \(--text-field\); it has txt"),
        (["\ud800"], "a list: row 1: field 'text' has half of a surrogate pair"),
        ([" ", ""], "a list: has no text in it"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            adapter.read_rows(rows=rows, **read)


def test_pictures_and_rows_with_a_picture_are_taken():
    adapter, pictures = registry.adapter("image"), tiny_image.pictures(3)
    read = {"source": "a list", "settings": tiny_image.settings(), "skip_bad": 0}
    for rows in (pictures, [{"label": 3, "image": picture} for picture in pictures]):
        assert [one.tobytes() for one in adapter.read_rows(rows=rows, **read)] == [one.tobytes() for one in pictures]
    assert adapter.read_rows(rows=[pictures[0].convert("LA")], **read)[0].mode == "RGB"
    assert len(adapter.read_rows(rows=[pictures[0], "a.png"], **read | {"skip_bad": 1})) == 1
    with pytest.raises(InputError, match=r"^a list: row 1: is a str without a picture; PIL pictures are needed$"):
        adapter.read_rows(rows=["a.png"], **read)


# Models.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_and_its_tokenizer_are_trained_in_place(dtype, tmp_path):
    model = tiny.causal("llama").to(dtype)
    before = model.model.embed_tokens.weight.detach().float().clone()
    run = hypergen.fit(model=model, tokenizer=tiny.tokenizer(), data=STORIES, output=tmp_path / "run", **SMALL)
    assert run.record["base"] == "a LlamaForCausalLM in memory" and run.record["modality"] == "text"
    assert run.modality.model.causal is model and not model.model.embed_tokens.weight.equal(before)
    again = AutoModelForCausalLM.from_pretrained(run.folder)
    assert again.model.embed_tokens.weight.equal(model.model.embed_tokens.weight)
    assert isinstance(hypergen.generate(run.folder, "The ferryman", max_new_tokens=3, device="cpu")[0], str)


def test_a_loaded_model_is_its_folder_and_brings_its_tokenizer(text_base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(text_base)
    run = hypergen.fit(model=model, data=STORIES, output=tmp_path / "run", **SMALL)
    named = hypergen.fit(model=text_base, data=STORIES, output=tmp_path / "named", **SMALL)
    assert run.record["base"] == named.record["base"] and run.records == named.records
    assert len(hypergen.evaluate(run, count=2, device="cpu").records) > 4


def test_a_run_stands_for_its_folder(toy_base, tmp_path):
    first = fit(toy_base, tmp_path / "first")
    second = hypergen.fit(model=first, output=tmp_path / "second", **QUICK_TOY | {"epochs": 1})
    assert second.record["base"] == str(tmp_path / "first") and second.modality.model is not first.modality.model
    with pytest.raises(InputError, match=r"^model: a run of interpolated weights is in no folder"):
        hypergen.fit(model=first.interpolate(0.5), output=tmp_path / "third", **QUICK_TOY)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": object()}, "model: is of type object; a name, a folder, a Run or a transformers model is needed"),
        ({"model": object(), "modality": "text"}, "model: is of type object; a causal language model of transformers"),
        ({"model": object(), "modality": "image"}, "model: is of type object; a picture model is named by its folder"),
        ({"tokenizer": object(), "modality": "text"}, "tokenizer: goes with a model that is given as an object"),
    ],
)
def test_what_is_no_model_is_refused_in_a_line(options, message, tmp_path):
    data = tiny_image.pictures(3) if options.get("modality") == "image" else STORIES
    with pytest.raises(InputError, match=f"^{message}"):
        hypergen.fit(data=data, output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_none_or_does_not_fit_is_refused(tmp_path):
    options = SMALL | {"data": STORIES, "output": tmp_path / "run"}
    for tokenizer, message in {
        None: "^tokenizer: is needed for a model that was loaded from nowhere$",
        "a": "^tokenizer: is of type str; one of transformers is needed$",
    }.items():
        with pytest.raises(InputError, match=message):
            hypergen.fit(model=tiny.causal("llama"), tokenizer=tokenizer, **options)
    with pytest.raises(
        InputError, match=r"^LlamaForCausalLM: its tokenizer has id \d+, but the model only ids below 20"
    ):
        hypergen.fit(model=tiny.causal("llama", vocab_size=20), tokenizer=tiny.tokenizer(), **options)


def test_names_are_left_alone():
    options = {"model": "a", "data": "self", "prompts": None, "epochs": 3}
    assert split_objects(options) == (options, objects.Objects())
