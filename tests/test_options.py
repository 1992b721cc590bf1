"""Which modality, base, options and items a verb works on. Alone: pytest tests/test_options.py"""

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from hypergen import options, registry
from hypergen.config import HELD_OUT_SAMPLES, PAPER_RECIPE, ExportConfig, FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.objects import Objects
from tests.toy.config import Settings

RECIPE = PAPER_RECIPE | {"sequence_length": 256}

pytestmark = pytest.mark.usefixtures("registered")


def record(folder, content, name="hypergen.json"):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


# Options.


def test_keywords_are_split_between_verb_and_modality():
    config, settings = options.split_options(FitConfig, None, {"epochs": 3, "modulus": 5})
    assert (config.epochs, settings) == (3, {"modulus": 5})
    assert options.split_options(FitConfig, config, {"modulus": 5}) == (config, {"modulus": 5})


def test_a_config_and_its_keywords_exclude_each_other():
    with pytest.raises(InputError, match="epochs: give a FitConfig or keywords, not both"):
        options.split_options(FitConfig, FitConfig(), {"epochs": 3})


def test_a_missing_keyword_is_named():
    from hypergen.config import PretrainConfig

    with pytest.raises(InputError, match=r"^PretrainConfig: .*'data' and 'output'$"):
        options.split_options(PretrainConfig, None, {"modality": "text"})


def test_settings_come_from_the_user_then_from_the_recipe():
    from hypergen.text.config import Settings as TextSettings

    assert options.make_settings("text", {}, RECIPE) == TextSettings(sequence_length=256)
    assert options.make_settings("text", {"sequence_length": 9}, PAPER_RECIPE).sequence_length == 9


@pytest.mark.parametrize("modality, option", [("text", "image_size"), ("image", "prompt_length"), ("toy", "mirror")])
def test_an_option_of_another_modality_is_refused_by_name(modality, option):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(InputError, match=f"^{flag}: not an option of modality '{modality}', which has "):
        options.make_settings(modality, {option: 3}, {})


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
    assert options.modality_of(None, folder) == options.modality_of(expected, folder) == (expected, folder)
    with pytest.raises(InputError, match=f"is of modality '{expected}'$"):
        options.modality_of("other", folder)


def test_the_user_wins_over_a_guess_and_over_nothing_else(tmp_path):
    folder = record(tmp_path, {"hidden_size": 8}, "config.json")
    assert options.modality_of("toy", folder) == ("toy", folder)
    assert options.modality_of(None, folder) == ("text", folder)
    record(tmp_path, {"modality": "text"})
    with pytest.raises(InputError, match=f"^--modality toy: {folder} is of modality 'text'$"):
        options.modality_of("toy", folder)


def test_what_hypergen_wrote_wins_over_the_architecture(tmp_path):
    record(tmp_path, {"model_type": "llama"}, "config.json")
    assert registry.identify(tmp_path).modality == "text"
    record(tmp_path, {"modality": "toy"})
    assert registry.identify(tmp_path).modality == "toy"


def test_a_hub_id_takes_what_is_asked():
    assert options.modality_of("text", "some/model") == ("text", "some/model")
    assert options.modality_of("text", None) == ("text", None)


@pytest.mark.parametrize("model, said", [(None, "^--modality is needed"), ("x/y", "^x/y: no such folder; --modality")])
def test_nothing_tells_the_modality(model, said):
    with pytest.raises(InputError, match=f"{said}.*: text, image"):
        options.modality_of(None, model)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(InputError, match=r"a\.zip: is a file, and none that is a model \(\.gguf, \.toy\); --modality"):
        options.modality_of(None, str(tmp_path / "a.zip"))
    with pytest.raises(InputError, match=r"a\.toy: no such file; --modality is needed"):
        options.modality_of(None, str(tmp_path / "a.toy"))


def test_a_named_base_and_a_file_tell_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toy").write_text("")
    for model in ("toy-zero", "a.toy"):
        assert options.modality_of(None, model) == ("toy", model)
        with pytest.raises(InputError, match=f"^--modality text: {model} is of modality 'toy'$"):
            options.modality_of("text", model)


def test_nothing_is_read_from_a_folder_that_is_called_like_a_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy-zero" / "checkpoints").mkdir(parents=True)  # as of an unfinished run
    record(tmp_path / "toy-zero", {"modality": "image"})
    assert options.modality_of(None, "toy-zero") == ("toy", "toy-zero") and options.read_record("toy-zero") == {}


def test_an_empty_folder_does_not_tell(tmp_path):
    with pytest.raises(InputError, match="does not tell its modality"):
        options.modality_of(None, str(tmp_path))


@pytest.mark.parametrize("inside", ["model-q4.gguf", "checkpoint-500/config.json", "step-3/hypergen.json"])
def test_a_folder_that_holds_a_model_says_where(inside, tmp_path):
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).write_text("{}")
    named = tmp_path / inside.split("/")[0]
    with pytest.raises(InputError, match="does not tell its modality") as error:
        options.modality_of(None, str(tmp_path))
    assert f"(no config.json), but {named} may be what you mean; --modality is needed" in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]", "7", "[" * 100_000, "1" * 5000, "\udcff"])
@pytest.mark.parametrize("name", ["hypergen.json", "config.json"])
def test_a_broken_record_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=name) as error:
        options.modality_of(None, str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("modality", ["audio", 3, ["text"], None])
def test_a_record_with_a_modality_that_does_not_exist(modality, tmp_path):
    folder = record(tmp_path, {"modality": modality})
    with pytest.raises(InputError, match="text, image"):
        options.stored_settings(folder, None, {})


def test_stored_settings_with_what_the_user_gave_on_top(tmp_path):
    folder = record(tmp_path, {"modality": "toy", "settings": {"modulus": 8, "prompt_length": 5}})
    found = options.stored_settings(folder, None, {"prompt_length": 6})
    assert found == (folder, "toy", Settings(modulus=8, prompt_length=6))


def test_the_snapshot_in_a_folder_of_the_hub_s_cache_is_what_is_loaded(tmp_path):
    cached = tmp_path / "models--org--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    snapshot = record(cached / "snapshots" / "abc", {"modality": "toy", "settings": {"modulus": 8}})
    assert options.modality_of(None, str(cached)) == ("toy", snapshot)
    assert options.stored_settings(str(cached), None, {}) == (snapshot, "toy", Settings(modulus=8))
    assert options.base_of(tmp_path, str(cached), "toy") == snapshot


@pytest.mark.parametrize("settings", [3, [1], {"nonsense": 1}, {"prompt_length": None, "x": 1}])
def test_stored_settings_that_do_not_fit_are_refused(settings, tmp_path):
    with pytest.raises(InputError):
        options.stored_settings(record(tmp_path, {"modality": "toy", "settings": settings}), None, {})


def test_an_unknown_modality_and_one_without_a_base():
    with pytest.raises(InputError, match="modality 'audio': allowed are text, image"):
        options.embedded_base("audio")
    with pytest.raises(InputError, match="--modality toy: has no embedded base; give --model"):
        options.embedded_base("toy")


# The recipe.


def test_the_card_says_what_suits_its_data_and_the_paper_the_rest():
    card = {"fit": {"self": {"epochs": 3}, "data": {"epochs": 5}, "stories": {"epochs": 7}}}
    epochs = {data: options.fit_recipe(card, data)["epochs"] for data in ("self", "stories", "mine.txt")}
    assert epochs == {"self": 3, "stories": 7, "mine.txt": 5}
    assert options.fit_recipe(card, "self")["learning_rate"] == PAPER_RECIPE["learning_rate"]
    for card in ({}, {"fit": {"data": {"epochs": 5}}}):
        assert options.fit_recipe(card, "self") == PAPER_RECIPE


def test_the_embedded_and_the_named_bases_have_cards(tmp_path):
    toy = registry.adapter("toy")
    assert options.read_card(registry.adapter("text"), "text", None)["fit"]["self"]
    named = options.read_card(toy, "toy", "toy-zero")
    assert {data: options.fit_recipe(named, data)["epochs"] for data in ("self", "numbers")} == {
        "self": 2,
        "numbers": 3,
    }
    folder = record(tmp_path, {"modality": "toy", "fit": {"self": {"epochs": 9}}})
    assert options.read_card(toy, "toy", folder) == {}  # a run is no base that hypergen knows


# The items.


class Reader:
    """Stands for an adapter's module; a source gives its own name as its items."""

    DEFAULT_PROMPTS = "built-in"

    @staticmethod
    def read(*, source, settings, skip_bad):
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
    items = options.read_items(Reader, None, FitConfig(data=data, prompts=prompts), Objects())
    assert tuple(part and part[0] for part in items) == expected


def test_own_samples_on_both_sides_where_a_modality_has_no_prompts(monkeypatch):
    monkeypatch.setattr(Reader, "DEFAULT_PROMPTS", None)
    assert options.read_items(Reader, None, FitConfig(data="self"), Objects()) == (None, None)


# What a verb works on.


def test_after_resolution_nothing_is_open():
    resolved = options.ResolvedFit.of(FitConfig(epochs=3), "text", RECIPE)
    filled = {name: getattr(resolved, name) for name in ("modality", *PAPER_RECIPE)}
    assert filled == PAPER_RECIPE | {"modality": "text", "epochs": 3}
    assert fields(resolved) and [one.name for one in fields(resolved)] == [one.name for one in fields(FitConfig)]


def test_a_recipe_that_leaves_something_open_is_refused_by_flag():
    with pytest.raises(InputError, match="--learning-rate: neither given nor in the base's recipe"):
        options.ResolvedFit.of(
            FitConfig(), "text", {name: value for name, value in RECIPE.items() if name != "learning_rate"}
        )


@pytest.mark.parametrize(
    "every, expected", [(None, (0, options.CHECKPOINT_SECONDS)), (0, (0, math.inf)), (2, (6, math.inf))]
)
def test_a_plan_counts_in_steps(every, expected):
    typed = FitConfig(checkpoint_every=every, batch_size=8, epochs=5, target_accuracy=0.9)
    resolved = options.ResolvedFit.of(typed, "text", RECIPE)
    plan = options.fit_plan(resolved, 20)
    assert (plan.steps, plan.pretraining) == (15, False)
    assert (plan.checkpoint_every, plan.checkpoint_seconds) == expected
    names = ("batch_size", "learning_rate", "seed", "target_loss", "target_accuracy", "last_layers", "precision")
    for name in (*names, "recompute"):
        assert getattr(plan, name) == getattr(resolved, name)


def test_pretraining_trains_everything_and_stops_at_no_loss_or_accuracy():
    config = PretrainConfig(modality="text", data="a", output="b", steps=7, checkpoint_every=2)
    plan = options.pretrain_plan(config)
    assert plan.target_accuracy is None
    assert (plan.steps, plan.last_layers, plan.target_loss, plan.pretraining, plan.checkpoint_every) == (
        7,
        0,
        0,
        True,
        2,
    )


@pytest.mark.parametrize("asked, expected", [(None, HELD_OUT_SAMPLES), (3, 3)])
def test_prompts_of_a_comparison(asked, expected):
    assert options.num_held_out(FitConfig(held_out_samples=asked)) == expected


# The base of a run.


def test_the_base_is_what_the_record_says(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    record(tmp_path / "base", {"modality": "toy"})
    assert options.base_of(tmp_path, str(tmp_path / "base"), "toy") == str(tmp_path / "base")
    with pytest.raises(InputError, match=r"its record names some-one/model as its base, which is not on this machine"):
        options.base_of(tmp_path, "some-one/model", "text")  # maybe a stranger's record: the hub is not asked
    assert options.base_of(tmp_path, "some-one/model", "text", is_typed=True) == "some-one/model"
    monkeypatch.setattr(options, "is_cached", lambda name: True)
    assert options.base_of(tmp_path, "some-one/model", "text") == "some-one/model"
    assert options.base_of(tmp_path, "text", "text") == options.embedded_base("text")


@pytest.mark.parametrize("base", [None, 3, ["a"]])
def test_a_run_that_does_not_say_its_base(base, tmp_path):
    with pytest.raises(InputError, match=r"does not say which base it started from; give --baseline$"):
        options.base_of(tmp_path, base, "toy", "; give --baseline")


def test_a_base_that_is_gone_or_of_another_kind(tmp_path):
    with pytest.raises(InputError, match=r"its base \S+/gone is not there$"):
        options.base_of(tmp_path, str(tmp_path / "gone"), "toy")
    with pytest.raises(InputError, match=r"^base .*: is of modality 'text', .* of 'toy'$"):
        options.base_of(tmp_path, record(tmp_path, {"modality": "text"}), "toy")


# What an export makes.


def exported(source, modality="toy", **options_given):
    return options.ResolvedExport.of(ExportConfig(**options_given), modality, Path(source))


def test_an_export_has_the_first_format_and_type(tmp_path):
    resolved = exported(tmp_path)
    assert (resolved.format, resolved.type) == ("sizes", "count")
    assert resolved.file == tmp_path / f"{tmp_path.name}-count.json"
    assert exported(tmp_path, type="sum", output=tmp_path / "a.json").file == tmp_path / "a.json"


def test_an_export_of_what_has_no_folder_goes_into_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.toy").write_text("")
    (tmp_path / "toy-zero").mkdir()  # a name wins over a folder
    for source, name in (("model.toy", "model"), ("some/model-1.5b", "model-1.5b"), ("toy-zero", "toy-zero")):
        assert exported(source).file == Path(f"{name}-count.json")
    assert exported(".").file == Path(f"{tmp_path.name}-count.json")


@pytest.mark.parametrize(
    "modality, given, said",
    [
        ("image", {}, "^export: modality 'image' is exported to no format$"),
        ("toy", {"format": "gguf"}, "^--format gguf: modality 'toy' is exported to sizes$"),
        ("toy", {"type": "f32"}, "^--type f32: must be count or sum$"),
        ("toy", {"output": "a.txt"}, "^--output a.txt: must end in .json$"),
        ("toy", {"output": "no/a.json"}, "^--output no/a.json: folder no does not exist$"),
    ],
)
def test_an_export_that_cannot_be(modality, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        exported(tmp_path, modality, **given)


def test_an_option_of_a_modality_says_which_verbs_read_it():
    options.require_read("fit", "text", {"pack": True, "text_field": "a"})
    with pytest.raises(InputError, match=r"^--pack: only fit reads it$"):
        options.require_read("generate", "text", {"pack": True})
    with pytest.raises(InputError, match=r"^--prompt-fraction: only fit and generate read it$"):
        options.require_read("pretrain", "image", {"prompt_fraction": 0.5})
    options.require_read("pretrain", "toy", {"modulus": 3})


def test_a_name_that_is_nearly_that_of_a_base_is_suggested():
    with pytest.raises(InputError, match=r"^smollm2: no such folder; did you mean smollm2-135m\?; --modality"):
        options.modality_of(None, "smollm2")
