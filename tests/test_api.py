"""The verbs end to end on the toy: what they leave, what comes back, what repeats. Alone: pytest tests/test_api.py"""

import json
import stat

import pytest
import torch

import hypergen
from hypergen import api, registry
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.evaluation import baselines
from hypergen.storage import atomic, manifest
from hypergen.storage.file_names import HELD_OUT_TOKENS
from hypergen.storage.metrics_log import read_metrics
from hypergen.storage.token_files import stored_loss_mask, stored_tokens
from tests.conftest import QUICK_TOY
from tests.toy import adapter

FILES = {
    *("model.safetensors", "toy.json"),  # the modality's own
    *("hypergen.json", "metrics.jsonl", "manifest.json", "report.html", "README.md"),
    *("training_tokens.safetensors", "held_out_tokens.safetensors"),
    *(f"samples/{number:04d}.json" for number in range(8)),
}


def fit(base, output, **options):
    return hypergen.fit(model=base, output=str(output), **QUICK_TOY | options)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def rows_of(tokens):
    return {tuple(row) for row in tokens.tolist()}


@pytest.fixture(scope="module")
def fitted(toy_base, tmp_path_factory):
    return fit(toy_base, tmp_path_factory.mktemp("runs") / "toy")


def test_fit_leaves_these_files_and_no_others(fitted):
    assert files(fitted.folder) == FILES
    assert {path.name for path in fitted.folder.iterdir() if path.is_dir()} == {"samples"}
    assert [path.name for path in fitted.folder.parent.iterdir()] == ["toy"]


def test_the_manifest_covers_every_file(fitted):
    manifest.check_manifest(fitted.folder)
    listed = json.loads((fitted.folder / "manifest.json").read_text())["files"]
    assert set(listed) == FILES - {"manifest.json"}


def test_a_named_base_gives_its_recipe_and_stays_a_name(registered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy-zero").mkdir()  # is not asked
    options = {name: value for name, value in QUICK_TOY.items() if name != "epochs"}
    run = hypergen.fit(model="toy-zero", output="run", **options)
    assert (run.record["base"], run.record["training"]["epochs"]) == ("toy-zero", 3)
    assert hypergen.evaluate("run", count=2).records
    assert hypergen.load("toy-zero").record == {}


def test_the_record_says_how_the_run_came_about(fitted, toy_base):
    record = json.loads((fitted.folder / "hypergen.json").read_text())
    assert record == json.loads(json.dumps(fitted.record))
    assert {name: record["config"][name] for name in QUICK_TOY} == QUICK_TOY
    assert (record["modality"], record["base"], record["config"]["seed"]) == ("toy", toy_base, 0)
    assert len(record["data_sha256"]) == 64 and record["sequences"] == [24, 16]
    assert record["training"]["stopped_by"] == "epochs" and record["training"]["epochs"] == 3
    assert {"hypergen", "torch", "python"} <= record["versions"].keys()


def test_the_log_has_one_line_an_epoch_and_the_loss_falls(fitted):
    log = [json.loads(line) for line in (fitted.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert log[0]["loss"] > log[-1]["loss"] == fitted.record["training"]["loss"]


def test_modes_follow_the_umask(fitted):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in fitted.folder.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~atomic._umask()}


def test_overlap_stands_beside_diversity(fitted):
    names = [record["name"] for record in fitted.records]
    assert names == ["base greedy", "base top-p", "hyperfitted greedy", "original"]
    assert all(
        {"ttr", "overlap_mean", "overlap_over_10", "overlap_max"} <= one["values"].keys() for one in fitted.records
    )
    page = (fitted.folder / "report.html").read_text().lower()
    assert page.index("ttr") and page.index("overlap")


def test_no_long_part_of_fit_and_evaluate_is_silent(toy_base, tmp_path, phases):
    run = fit(toy_base, tmp_path / "run", last_layers=1, measure_every=1)
    shown = phases()
    assert list(shown) == [
        *("base greedy", "base greedy: describe", "base top-p", "hash the base", "hyperfit: activation cache"),
        *("hyperfit", "hyperfitted greedy", "hyperfitted greedy: describe", "hash the run (MB)"),
    ]
    assert shown["base greedy: describe"] == "16/16" and shown["hyperfit: activation cache"] == "24/24"
    hypergen.evaluate(run)
    shown = phases()
    named = {
        name: {label: count for label, count in shown.items() if label.startswith(f"{name}: ")}
        for name in ("base greedy", "base entropy-matched", "base static bias", "hyperfitted greedy")
    }
    assert named["base greedy"] == {"base greedy: describe": "16/16"}
    assert list(named["base entropy-matched"])[:3] == [
        "base entropy-matched: entropy of the run",
        "base entropy-matched: match",
        "base entropy-matched: match, entropy at temperature 1",
    ]
    assert named["base static bias"] == {
        "base static bias: calibrate": "16/16",
        "base static bias: describe": "24/24",
        "base static bias: rank in the base": "8/8",
    }
    assert named["hyperfitted greedy"].keys() == {
        "hyperfitted greedy: describe",
        "hyperfitted greedy: rank in the base",
    }


def test_it_stops_at_the_target_loss_and_says_so(toy_base, tmp_path):
    training = fit(toy_base, tmp_path / "run", target_loss=100.0).record["training"]
    assert (training["stopped_by"], training["epochs"]) == ("target_loss", 1)


def test_it_stops_at_the_target_accuracy_and_says_so(fitted, toy_base, tmp_path):
    accuracies = [row["accuracy"] for row in read_metrics(fitted.folder)]
    assert fitted.record["training"]["accuracy"] == accuracies[-1] > accuracies[0]
    first = next(epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= accuracies[1])
    training = fit(toy_base, tmp_path / "run", target_accuracy=accuracies[1]).record["training"]
    assert (training["stopped_by"], training["epochs"]) == ("target_accuracy", first)
    assert training["accuracy"] == accuracies[first - 1]


def test_same_seed_same_numbers_bit_for_bit(fitted, toy_base, tmp_path):
    again = fit(toy_base, tmp_path / "again")
    other = fit(toy_base, tmp_path / "other", seed=1)
    weights = [(one.folder / "model.safetensors").read_bytes() for one in (fitted, again, other)]
    assert weights[0] == weights[1] != weights[2]
    assert again.records == fitted.records != other.records
    assert again.tokens().equal(fitted.tokens()) and not other.tokens().equal(fitted.tokens())


@pytest.mark.parametrize("data, prompts", [("numbers", None), ("numbers", "self"), ("self", None), ("self", "self")])
def test_no_prompt_comes_from_a_training_sequence(data, prompts, toy_base, tmp_path):
    run = fit(toy_base, tmp_path / "run", data=data, prompts=prompts, epochs=1, num_samples=150)
    held_out = run.tokens(HELD_OUT_TOKENS)
    assert len(held_out) > 0 and not rows_of(held_out) & rows_of(run.tokens())


@pytest.mark.parametrize("data", ["numbers", "self"])
def test_more_prompts_than_there_are_are_refused(data, toy_base, tmp_path):
    """Asked for; the default takes those that there are."""
    (tmp_path / "five.jsonl").write_text("[1, 2, 3]\n[1, 2, 3, 4]\n[2, 3]\n[4, 5]\n[6, 7]\n")
    prompts, options = f"{tmp_path}/five.jsonl", {"epochs": 1, "data": data}
    with pytest.raises(InputError, match=r"^held_out_samples 6: there are 5 prompts that were not trained on$"):
        fit(toy_base, tmp_path / "run", prompts=prompts, held_out_samples=6, **options)
    assert not (tmp_path / "run").exists()
    run = fit(toy_base, tmp_path / "run", prompts=prompts, held_out_samples=None, **options)
    assert len(run.tokens(HELD_OUT_TOKENS)) == 5
    assert run.record["compared"] == "5 prompts of 4 tokens, 12 new tokens each"


def test_prompts_that_are_all_trained_on_are_refused(toy_base, tmp_path):
    (tmp_path / "one.jsonl").write_text("[1, 2, 3]\n")
    with pytest.raises(InputError, match="held-out items: all 1 sequences are trained on"):
        fit(toy_base, tmp_path / "run", data=f"{tmp_path}/one.jsonl", prompts=f"{tmp_path}/one.jsonl", num_samples=1)
    assert [path.name for path in tmp_path.iterdir()] == ["one.jsonl"]


@pytest.mark.parametrize("last_layers", [0, 1, 3])
def test_only_the_last_layers_change(last_layers, toy_base, tmp_path):
    before = hypergen.load(toy_base, device="cpu").modality.model
    after = fit(toy_base, tmp_path / "run", last_layers=last_layers).modality.model
    changed = [
        any(not one.equal(two) for one, two in zip(old.parameters(), new.parameters(), strict=True))
        for old, new in zip(before.blocks, after.blocks, strict=True)
    ]
    assert changed == [last_layers in (0, 3)] * 2 + [True]


def test_more_last_layers_than_blocks_are_refused_before_anything_is_computed(toy_base, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_training_tokens", None)
    with pytest.raises(InputError, match=r"^last_layers 4: the model has 3 blocks"):
        fit(toy_base, tmp_path / "run", last_layers=4)
    assert not (tmp_path / "run").exists()


def test_evaluate_repeats_the_numbers_of_fit(fitted, toy_base, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for compared in (
        hypergen.evaluate(fitted.folder, device="cpu"),
        hypergen.evaluate(fitted, baseline=toy_base, device="cpu"),
    ):
        values = {record["name"]: record["values"] for record in compared.records}
        for record in fitted.records:
            assert record["values"].items() <= values[record["name"]].items()
    fewer = hypergen.evaluate(fitted, count=3, data="numbers", seed=5, max_new_tokens=4, device="cpu")
    assert {tuple(column.shape) for column in fewer.columns.values()} == {(len(fewer.held_out), 4)}
    assert 1 <= len(fewer.held_out) <= 3
    assert not rows_of(fewer.held_out) & rows_of(fitted.tokens())


def test_evaluate_shows_the_whole_line_up(fitted):
    compared = hypergen.evaluate(fitted.folder, device="cpu")
    names = [record["name"] for record in compared.records]
    assert names == [*(row.name for row in baselines.baselines(0)), "original"]
    values = {record["name"]: record["values"] for record in compared.records}
    matched, trained = (values[name]["entropy"]["mean"] for name in ("base entropy-matched", "hyperfitted greedy"))
    assert abs(matched - trained) < 1e-3
    assert values["base entropy-matched"]["agreement"]["mean"] == 1 > values["hyperfitted greedy"]["agreement"]["mean"]
    assert {"override", "rank_shift"} <= values["hyperfitted greedy"].keys()


def test_evaluate_measures_completions_from_elsewhere(fitted, tmp_path):
    run = hypergen.load(fitted.folder, device="cpu")
    rows = run.prompt_rows()
    completions = run.complete(rows, DecodingConfig(stop_at_end=False))
    lines = [
        json.dumps({"prompt_tokens": row.tolist(), "completion_tokens": ids.tolist()})
        for row, ids in zip(rows, completions, strict=True)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    compared = hypergen.evaluate(fitted, completions=str(tmp_path / "own.jsonl"), device="cpu")
    assert compared.columns["own.jsonl"].equal(compared.columns["hyperfitted greedy"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"count": 9}, "count 9: there are 8 prompts"),
        ({"completions": "nothing.jsonl"}, "completions nothing.jsonl: cannot be read"),
    ],
)
def test_evaluate_refuses_what_cannot_be_compared(options, message, fitted):
    with pytest.raises(InputError, match=message):
        hypergen.evaluate(fitted, **options, device="cpu")


def test_evaluate_refuses_a_base_of_another_modality(fitted, text_base):
    with pytest.raises(InputError, match=r"is of modality 'text', .* of 'toy'"):
        hypergen.evaluate(fitted, baseline=text_base)


@pytest.mark.parametrize("option", ["sequence_length", "counts"])
def test_evaluate_names_an_unknown_option(option, fitted):
    with pytest.raises(InputError, match="not an option of evaluate"):
        hypergen.evaluate(fitted, **{option: 1})


def test_evaluate_needs_a_run_and_a_base(toy_base, fitted, tmp_path):
    with pytest.raises(InputError, match="only a hyperfitted run has it"):
        hypergen.evaluate(toy_base)
    for path in fitted.folder.glob("*tokens*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "hypergen.json").write_text('{"modality": "toy"}')
    with pytest.raises(InputError, match="give baseline"):
        hypergen.evaluate(tmp_path)


def test_pretrain_and_fit_from_it(registered, tmp_path):
    sizes = {"width": 32, "num_layers": 2, "num_heads": 2, "steps": 150, "batch_size": 16}
    base = hypergen.pretrain(modality="toy", data="numbers", output=str(tmp_path / "base"), device="cpu", **sizes)
    own = {"model.safetensors", "toy.json", "hypergen.json", "metrics.jsonl", "README.md", "manifest.json"}
    assert files(base.folder) == own
    manifest.check_manifest(base.folder)
    assert base.record["held_out"]["loss"] < 2.5 < torch.tensor(18.0).log()
    run = fit(str(base.folder), tmp_path / "run", epochs=20, target_loss=0.8)
    assert run.record["training"]["stopped_by"] == "target_loss"
    assert run.record["base"] == str(base.folder)


def test_pretrain_takes_held_out_items_from_elsewhere(registered, tmp_path):
    (tmp_path / "some.jsonl").write_text("[1, 2, 3]\n")
    options = {"modality": "toy", "width": 8, "num_layers": 1, "num_heads": 1, "steps": 2, "device": "cpu"}
    with pytest.raises(InputError, match="give held_out"):
        hypergen.pretrain(data=f"{tmp_path}/some.jsonl", output=f"{tmp_path}/base", **options)
    held_out = f"{tmp_path}/some.jsonl"
    base = hypergen.pretrain(data="numbers", held_out=held_out, output=f"{tmp_path}/base", **options)
    assert base.record["sequences"][0] == 256


def test_everything_cheap_is_refused_before_a_model_is_loaded(toy_base, tmp_path, monkeypatch):
    def load(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(registry.adapter("toy"), "load", load)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    bad = [{"data": "nowhere.jsonl"}, {"prompts": "nowhere.jsonl"}, {"device": "mps"}, {"modulos": 3}, {"epochs": 0}]
    for options in [*bad, {"output": str(tmp_path / "full")}]:
        with pytest.raises(InputError):
            hypergen.fit(model=toy_base, **QUICK_TOY | {"output": str(tmp_path / "run")} | options)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_without_an_output_the_next_free_folder_is_taken(toy_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "toy-1").mkdir(parents=True)
    run = hypergen.fit(model=toy_base, **QUICK_TOY | {"epochs": 1})
    assert str(run.folder) == "runs/toy-2" and files(tmp_path / "runs" / "toy-2") == FILES


# A loss mask.


@pytest.fixture(scope="module")
def masked(toy_base, tmp_path_factory):
    return fit(toy_base, tmp_path_factory.mktemp("masked") / "run", masked=True)


def test_a_masked_fit_keeps_its_mask_and_measures_by_it(masked, fitted):
    tokens, loss_mask = masked.tokens(), masked.loss_mask()
    assert loss_mask.shape == tokens.shape and fitted.loss_mask() is None
    assert masked.record["counted_tokens"] == int(loss_mask[:, 1:].sum()) and "counted_tokens" not in fitted.record
    assert masked.record["data_sha256"] == fitted.record["data_sha256"]
    assert masked.records != fitted.records
    prompts = masked.prompt_rows()
    assert [len(one) for one in prompts] == masked.loss_mask(HELD_OUT_TOKENS).int().argmax(1).tolist()
    assert masked.grid(rows=3, stop_at_end=False).count("<tr>") == 4
    assert len(masked.generate(block_citations=3)) == 8
    log = read_metrics(masked.folder)
    assert log[0]["loss"] > log[-1]["loss"] == masked.record["training"]["loss"]


def test_evaluate_repeats_the_numbers_of_a_masked_fit(masked):
    compared = hypergen.evaluate(masked.folder, device="cpu")
    values = {record["name"]: record["values"] for record in compared.records}
    for record in masked.records:
        assert record["values"].items() <= values[record["name"]].items()
    matched, trained = (values[name]["entropy"]["mean"] for name in ("base entropy-matched", "hyperfitted greedy"))
    assert abs(matched - trained) < 1e-3
    assert len(hypergen.evaluate(masked, count=3, data="numbers", seed=5, device="cpu").prompts) == 3


def test_a_run_from_before_masks_loads(fitted, tmp_path):
    for path in fitted.folder.glob("*tokens*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert stored_loss_mask(tmp_path, HELD_OUT_TOKENS) is None and stored_tokens(tmp_path, HELD_OUT_TOKENS).numel()


def test_a_resumed_fit_needs_the_same_mask(masked, toy_base, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(api.Comparison, "add_original", None)  # fails after the training
        with pytest.raises(TypeError):
            fit(toy_base, folder, masked=True)
    original = adapter.ToyModality._loss_mask
    with monkeypatch.context() as patch:
        patch.setattr(adapter.ToyModality, "_loss_mask", lambda *given: original(*given) | (torch.arange(16) == 15))
        with pytest.raises(InputError, match=r"was started with a loss mask of SHA-256 \w+, not \w+$"):
            fit(toy_base, folder, masked=True, resume=True)
    assert fit(toy_base, folder, masked=True, resume=True).records == masked.records


# What only Python has.


def test_each_epoch_is_told(toy_base, tmp_path):
    told = []
    run = fit(toy_base, tmp_path / "run", measure_every=2, on_epoch=lambda *epoch: told.append(epoch))
    assert [{"epoch": epoch} | metrics for epoch, metrics in told] == read_metrics(run.folder)
    assert told[1][1].keys() > told[0][1].keys() == {"loss", "accuracy"}


def test_progress_is_shown_unless_it_is_not_wanted(toy_base, tmp_path, phases):
    run = fit(toy_base, tmp_path / "silent", progress=False)
    hypergen.evaluate(run, progress=False)
    run.generate(progress=False), run.grid(progress=False), hypergen.generate(run.folder, progress=False)
    assert phases() == {}
    run.generate()
    assert phases() == {"generate": "8/8"}


def test_generate_loads_and_continues_in_one_call(fitted):
    expected = fitted.generate([[1, 2, 3]], strategy="top-p", seed=3, max_new_tokens=5)
    how = {"strategy": "top-p", "seed": 3, "max_new_tokens": 5}
    assert hypergen.generate(fitted.folder, [[1, 2, 3]], device="cpu", **how) == expected
    assert hypergen.generate(fitted, [[1, 2, 3]], **how) == expected
    assert len(hypergen.generate(str(fitted.folder), prompt_length=6, device="cpu")) == 8
    with pytest.raises(InputError, match=r"^prompt_length: not an option of generate with a run that is loaded$"):
        hypergen.generate(fitted, prompt_length=6)


def test_without_a_source_the_embedded_base_is_loaded(toy_base, monkeypatch):
    monkeypatch.setattr(api, "embedded_base", {"toy": toy_base}.get)
    assert str(hypergen.load(modality="toy", device="cpu").folder) == toy_base
    assert len(hypergen.generate(None, [[1, 2]], modality="toy", device="cpu", max_new_tokens=2)) == 1
    with pytest.raises(InputError, match=r"^modality is needed: text, image"):
        hypergen.load()


@pytest.mark.parametrize(
    "name, message",
    [
        ("epoch", "epoch: not an option of modality 'toy', which has .*; did you mean epochs\\?$"),
        ("modulos", "modulos: not an option of modality 'toy', which has .*; did you mean modulus\\?$"),
        ("wandb", "wandb: not an option of modality 'toy', which has masked, modulus, prompt_length, sequence_length$"),
    ],
)
def test_a_typo_is_answered_with_the_keyword_that_was_meant(name, message, toy_base, tmp_path):
    with pytest.raises(InputError, match=f"^{message}"):
        fit(toy_base, tmp_path / "run", **{name: 3})


def test_a_typo_of_evaluate_and_generate_is_answered_too(fitted):
    with pytest.raises(InputError, match=r"^counts: not an option of evaluate; did you mean count\?$"):
        hypergen.evaluate(fitted, counts=3)
    for attempt in (fitted.generate, fitted.grid):
        with pytest.raises(InputError, match=r"^top_q: not an option of .*did you mean top_[kp]\?$"):
            attempt(top_q=0.9)
    with pytest.raises(InputError, match=r"^top_p 2: must be above 0 and at most 1$"):
        fitted.generate(top_p=2)


def test_a_comparison_is_short_in_a_console_and_a_table_in_a_notebook(fitted):
    compared = hypergen.evaluate(fitted, count=3, device="cpu")
    count = len(compared.records)
    assert repr(compared) == f"<comparison of {count} rows: 3 prompts of 4 tokens, 12 new tokens each>"
    page = compared._repr_html_()
    assert page.count("<tr>") == count + 1 and "<th>steady</th>" in page and "3 prompts of 4 tokens" in page
    assert repr(compared.records).startswith(f"<{count} records: base greedy, ") and len(repr(compared.records)) < 500
    pytest.importorskip("pandas")
    assert list(compared.to_dataframe().index) == [record["name"] for record in compared.records]


def test_held_out_samples_are_counted_before_a_training_set_is_drawn(toy_base, tmp_path, monkeypatch):
    def sample(*_, **__):
        raise AssertionError("a training set was drawn")

    monkeypatch.setattr(api, "sample_training_set", sample)
    with pytest.raises(InputError, match=r"^held_out_samples 100000: there are \d+ prompts that"):
        fit(toy_base, tmp_path / "run", data="self", held_out_samples=100_000)
