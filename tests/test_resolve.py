"""Which modality, base, options and items a verb works on. Alone: pytest tests/test_resolve.py"""

import json

import pytest
import torch

from hypergen import registry, resolve
from hypergen.config import PAPER_RECIPE, FitConfig
from hypergen.errors import InputError
from tests.toy.config import Settings

pytestmark = pytest.mark.usefixtures("registered")


def record(folder, content, name="hypergen.json"):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


# Options.


def test_keywords_are_split_between_verb_and_modality():
    config, settings = resolve.split_options(FitConfig, None, {"epochs": 3, "modulus": 5})
    assert (config.epochs, settings) == (3, {"modulus": 5})
    assert resolve.split_options(FitConfig, config, {"modulus": 5}) == (config, {"modulus": 5})


def test_a_config_and_its_keywords_exclude_each_other():
    with pytest.raises(InputError, match="epochs: give a FitConfig or keywords, not both"):
        resolve.split_options(FitConfig, FitConfig(), {"epochs": 3})


def test_a_missing_keyword_is_named():
    from hypergen.config import PretrainConfig

    with pytest.raises(InputError, match=r"^PretrainConfig: .*'data' and 'output'$"):
        resolve.split_options(PretrainConfig, None, {"modality": "text"})


def test_settings_come_from_the_user_then_from_the_recipe():
    from hypergen.text.config import Settings as TextSettings

    assert resolve.make_settings("text", {}, PAPER_RECIPE) == TextSettings(sequence_length=256)
    assert resolve.make_settings("text", {"sequence_length": 9}, PAPER_RECIPE).sequence_length == 9


@pytest.mark.parametrize("modality, option", [("text", "image_size"), ("image", "prompt_length"), ("toy", "mirror")])
def test_an_option_of_another_modality_is_refused_by_name(modality, option):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(InputError, match=f"^{flag}: not an option of modality '{modality}', which has "):
        resolve.make_settings(modality, {option: 3}, {})


# The modality.


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("hypergen.json", {"modality": "toy"}, "toy"),
        ("config.json", {"model_type": "imagegpt"}, "image"),
        ("config.json", {"model_type": "llama"}, "text"),
        ("config.json", {}, "text"),
    ],
)
def test_a_folder_tells_its_modality(name, content, expected, tmp_path):
    folder = record(tmp_path, content, name)
    assert resolve.modality_of(None, folder) == resolve.modality_of(expected, folder) == expected
    with pytest.raises(InputError, match=f"is of modality '{expected}'$"):
        resolve.modality_of("other", folder)


def test_what_hypergen_wrote_wins_over_the_architecture(tmp_path):
    record(tmp_path, {"model_type": "llama"}, "config.json")
    assert registry.identify(tmp_path) == "text"
    record(tmp_path, {"modality": "toy"})
    assert registry.identify(tmp_path) == "toy"


def test_a_hub_id_takes_what_is_asked():
    assert resolve.modality_of("text", "some/model") == "text"


@pytest.mark.parametrize("model, said", [(None, "^--modality is needed"), ("x/y", "^x/y: no such folder; --modality")])
def test_nothing_tells_the_modality(model, said):
    with pytest.raises(InputError, match=f"{said}.*: text, image"):
        resolve.modality_of(None, model)


def test_an_empty_folder_does_not_tell(tmp_path):
    with pytest.raises(InputError, match="does not tell its modality"):
        resolve.modality_of(None, str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[1]", "7", "[" * 100_000, "1" * 5000, "\udcff"])
@pytest.mark.parametrize("name", ["hypergen.json", "config.json"])
def test_a_broken_record_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=name) as error:
        resolve.modality_of(None, str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("modality", ["audio", 3, ["text"], None])
def test_a_record_with_a_modality_that_does_not_exist(modality, tmp_path):
    folder = record(tmp_path, {"modality": modality})
    with pytest.raises(InputError, match="text, image"):
        resolve.stored_settings(folder, None, {})


def test_stored_settings_with_what_the_user_gave_on_top(tmp_path):
    folder = record(tmp_path, {"modality": "toy", "settings": {"modulus": 8, "prompt_length": 5}})
    name, settings = resolve.stored_settings(folder, None, {"prompt_length": 6})
    assert (name, settings) == ("toy", Settings(modulus=8, prompt_length=6))


@pytest.mark.parametrize("settings", [3, [1], {"nonsense": 1}, {"prompt_length": None, "x": 1}])
def test_stored_settings_that_do_not_fit_are_refused(settings, tmp_path):
    with pytest.raises(InputError):
        resolve.stored_settings(record(tmp_path, {"modality": "toy", "settings": settings}), None, {})


def test_an_unknown_modality_and_one_without_a_base():
    with pytest.raises(InputError, match="modality 'audio': allowed are text, image"):
        resolve.embedded_base("audio")
    with pytest.raises(InputError, match="--modality toy: has no embedded base; give --model"):
        resolve.embedded_base("toy")


# The recipe.


def test_the_card_says_what_suits_its_data_and_the_paper_the_rest():
    card = {"fit": {"self": {"epochs": 3}, "data": {"epochs": 5}, "stories": {"epochs": 7}}}
    epochs = {data: resolve.fit_recipe(card, data)["epochs"] for data in ("self", "stories", "mine.txt")}
    assert epochs == {"self": 3, "stories": 7, "mine.txt": 5}
    assert resolve.fit_recipe(card, "self")["learning_rate"] == PAPER_RECIPE["learning_rate"]
    assert (
        resolve.fit_recipe({}, "self") == resolve.fit_recipe({"fit": {"data": {"epochs": 5}}}, "self") == PAPER_RECIPE
    )


# The items.


def test_a_split_is_seeded_and_no_item_is_in_both_parts():
    training, held_out = resolve.split_items(range(100), 10, 0, "x", "--prompts")
    assert (len(training), len(held_out)) == (90, 10) and {*training, *held_out} == set(range(100))
    assert list(resolve.split_items(range(100), 10, 0, "x", "")[1]) == list(held_out)
    assert list(resolve.split_items(range(100), 10, 1, "x", "")[1]) != list(held_out)


@pytest.mark.parametrize("items, expected", [(2, 1), (3, 1), (8, 2), (40, 10), (41, 10)])
def test_at_most_a_quarter_is_held_out(items, expected):
    assert len(resolve.split_items(range(items), 10, 0, "x", "")[1]) == expected


@pytest.mark.parametrize("items", [0, 1])
def test_one_item_cannot_be_split(items):
    with pytest.raises(InputError, match=r"--data x: .*; give --prompts"):
        resolve.split_items(range(items), 10, 0, "x", "--prompts")


def test_a_part_is_read_only_where_it_is_asked_for():
    class Lazy(list):
        def __getitem__(self, index):
            read.append(index)
            return index

    read = []
    training, _ = resolve.split_items(Lazy(range(100)), 10, 0, "x", "")
    some = training[3:5]
    assert not read
    assert [some[0], some[1]] == read and len(some) == 2 and training[-1] == read[-1]


class Reader:
    """Stands for an adapter's module; a source gives its own name as its items."""

    DEFAULT_PROMPTS = "built-in"

    @staticmethod
    def read(source, settings, skip_bad):
        return [source] * 8


@pytest.mark.parametrize(
    "data, prompts, expected",
    [
        ("self", None, (None, "built-in")),
        ("self", "self", (None, None)),
        ("self", "mine", (None, "mine")),
        ("theirs", "mine", ("theirs", "mine")),
        ("theirs", "self", ("theirs", None)),
        ("theirs", None, ("theirs", "theirs")),
    ],
)
def test_where_training_and_held_out_items_come_from(data, prompts, expected):
    items = resolve.read_items(Reader, None, FitConfig(data=data, prompts=prompts))
    assert tuple(part and part[0] for part in items) == expected


def test_own_samples_on_both_sides_where_a_modality_has_no_prompts(monkeypatch):
    monkeypatch.setattr(Reader, "DEFAULT_PROMPTS", None)
    assert resolve.read_items(Reader, None, FitConfig(data="self")) == (None, None)


# The device.


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert resolve.pick_device("auto") == resolve.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="--device cuda: this machine has only a cpu"):
        resolve.pick_device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert [str(resolve.pick_device(name)) for name in ("auto", "cpu", "cuda:1")] == ["cuda", "cpu", "cuda:1"]
    with pytest.raises(InputError, match="--device mps: this machine has cuda"):
        resolve.pick_device("mps")
    with pytest.raises(InputError, match="allowed are auto"):
        resolve.pick_device("tape")
