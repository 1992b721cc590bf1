"""The suite on the toy: what it leaves, that it repeats, that it goes on. Alone: pytest tests/test_cross_domain.py"""

import dataclasses
import importlib.util
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from hypergen import lineup, registry
from tests.conftest import QUICK_TOY, tree

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cross_domain.py"
OPTIONS = {name: value for name, value in QUICK_TOY.items() if name not in ("data", "held_out_samples", "device")}


@pytest.fixture(scope="module")
def cross_domain():
    spec = importlib.util.spec_from_file_location("cross_domain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as for a script
        patch.setitem(sys.modules, "cross_domain", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def cells(cross_domain):
    return sys.modules["cells"]


@pytest.fixture(scope="module")
def base(cross_domain, toy_base):
    options = {"modality": "toy", "model": toy_base, **OPTIONS}
    return cross_domain.Base(name="toy", options=options, other_data="numbers", other_layers=1, count=8)


@pytest.fixture(scope="module")
def folder(cross_domain, base, tmp_path_factory):
    """A finished suite: `records` and `work`."""
    folder = tmp_path_factory.mktemp("suite")
    cross_domain.suite([base], [0, 1], {}, folder / "records", folder / "work", "cpu")
    return folder


def records(folder):
    return {name: content for name, content in tree(folder / "records").items() if name != "times.json"}


def test_one_record_a_cell(folder):
    cells = [json.loads(path.read_text()) for path in (folder / "records").glob("toy-seed*.json")]
    rows = [row.name for row in lineup.rows(0)]
    rows += [
        "early-stopped greedy",
        "hyperfitted last 1 blocks, greedy",
        "hyperfitted on real data, greedy",
        "original",
    ]
    expected = sorted((row, seed) for row in rows for seed in (0, 1))
    assert sorted((cell["row"], cell["seed"]) for cell in cells) == expected
    for cell in cells:
        assert len(cell["prompts_sha256"]) == len(cell["data_sha256"]) == 64
        assert {"python", "torch", "hypergen"} <= cell["versions"].keys() and cell["machine"]["device"] == "cpu"
        assert len(cell["examples"]["rep_4"]) == 8 and {"mean", "low", "high"} == cell["values"]["rep_4"].keys()
    assert {cell["prompts_sha256"] for cell in cells if cell["seed"] == 0} != {
        cell["prompts_sha256"] for cell in cells if cell["seed"] == 1
    }


def test_early_stopping_takes_the_epoch_with_the_lowest_held_out_loss(folder):
    (main,) = (folder / "work").glob("toy-hyperfitted-seed0-*")
    (early,) = (folder / "work").glob("toy-early-seed0-*")
    log = [json.loads(line) for line in (main / "metrics.jsonl").read_text().splitlines()]
    best = min(log, key=lambda row: row["held_out_loss"])
    ended = [json.loads(line) for line in (early / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in ended] == [row["loss"] for row in log[: best["epoch"]]]


def test_the_table_has_every_row_and_says_what_the_intervals_say(folder):
    table = (folder / "records" / "table.md").read_text()
    assert re.match(r"## toy: 8 prompts a seed, (8|9|1\d) different, seeds 0, 1\n", table)
    for row in lineup.rows(0):
        assert f"| {row.name} " in table
    assert "- rep-4: hyperfitted greedy" in table
    chart = (folder / "records" / "tradeoff-toy-seed1.svg").read_text()
    assert chart.count("<polyline") == 5 and "http://www.w3.org/2000/svg" in chart and "href" not in chart


def cell(cells, seed, prompts=("a", "b"), **examples):
    values = cells.summaries({name: cells.tensor_of(one) for name, one in examples.items()}, seed)
    place = {"base": "toy", "row": "hyperfitted greedy", "seed": seed, "new_tokens": None, "plan": {}}
    return cells.Cell(**place, prompts=list(prompts), examples=examples, values=values)


def test_a_prompt_of_several_seeds_counts_once(cells):
    """The base continues a prompt alike whatever the seed: three copies are no more evidence than one."""
    one = cell(cells, 0, rep_4=[0.0, 1.0])
    copies = [one, cell(cells, 1, rep_4=[0.0, 1.0]), cell(cells, 2, rep_4=[0.0, 1.0])]
    assert cells.pooled(copies) == cells.pooled([one])
    apart = cells.pooled([one, cell(cells, 1, ("b", "c"), rep_4=[0.0, 0.25])])
    assert apart["values"]["rep_4"]["mean"] == pytest.approx((0.0 + (1.0 + 0.0) / 2 + 0.25) / 3)


def test_numbers_of_the_whole_set_over_seeds(cells):
    pair = [cell(cells, 0, overlap_max=7.0, distinct_2=0.5), cell(cells, 1, overlap_max=12.0, distinct_2=0.7)]
    assert cells.pooled(pair)["values"] == {"overlap_max": {"mean": 12.0}, "distinct_2": {"mean": pytest.approx(0.6)}}


@pytest.mark.parametrize("order", [1, -1])
def test_a_seed_without_a_number_leaves_it_to_the_others(cells, order):
    pair = [cell(cells, 0, rep_4=[0.0, 1.0], override_deep=[0.5, None]), cell(cells, 1, ("c", "d"), rep_4=[1.0, 1.0])]
    values = cells.pooled(pair[::order])["values"]
    assert values["rep_4"]["mean"] == 0.75 and values["override_deep"]["mean"] == 0.5


def test_the_spread_over_seeds_and_whose_note_it_is(cells):
    three = [cell(cells, seed, (f"a{seed}", f"b{seed}"), rep_4=[0.0, seed / 10]) for seed in (0, 1, 2)]
    three[0].notes.update({"kid": "8 pictures", "hyperfitted greedy": "temperature 0.7"})
    three[1].notes.update({"kid": "8 pictures"})
    three[2].notes.update({"kid": "8 pictures"})
    lines = cells.section("toy", three, []).splitlines()
    assert "- rep-4, seeds 0, 1, 2: hyperfitted greedy 0.000, 0.050, 0.100" in lines
    assert lines[-2:] == ["- KID: 8 pictures", "- hyperfitted greedy: temperature 0.7 (seed 0)"]


def test_the_same_seed_gives_the_same_bytes(cross_domain, base, folder, tmp_path):
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert records(tmp_path) == records(folder)


def test_a_stopped_suite_goes_on(cross_domain, base, folder, tmp_path, monkeypatch):
    calls = []

    def add(compare, row, models, real=lineup.add):
        calls.append(row.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(compare, row, models)

    monkeypatch.setattr(lineup, "add", add)
    with pytest.raises(KeyboardInterrupt):
        cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert len(calls) == 1 + 2 * 14 and records(tmp_path) == records(folder)
    calls.clear()
    monkeypatch.setattr(cross_domain.hypergen, "fit", None)
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert not calls


@pytest.mark.parametrize("content", ["", "[]", '{"plan": ', "\0" * 99, None])
def test_a_damaged_record_counts_as_none(content, cross_domain, tmp_path):
    """The suite computes it again."""
    path = tmp_path / "cell.json"
    cross_domain.write(path, {"plan": 3})
    assert cross_domain.read(path) == {"plan": 3} and list(tmp_path.iterdir()) == [path]
    path.unlink() if content is None else path.write_text(content)
    assert cross_domain.read(path) == {}


def test_a_signal_is_one_line(cross_domain, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cross_domain.PRESETS, "tiny", ((base,), (0,)))
    monkeypatch.setattr(lineup, "add", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    places = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert cross_domain.main(["--preset", "tiny", *places]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "cross_domain: stopped by signal 2"


def test_another_plan_is_computed_again(cross_domain, base, folder, monkeypatch):
    (path,) = (folder / "records").glob("toy-seed0-base-greedy.json")
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps(recorded | {"plan": {}}))
    cross_domain.suite([base], [0, 1], {}, folder / "records", folder / "work", "cpu")
    assert json.loads(path.read_text()) == recorded


def test_a_row_without_its_data_is_named(cross_domain, toy_base, tmp_path):
    options = {"modality": "toy", "model": toy_base, **OPTIONS}
    base = cross_domain.Base(name="toy", options=options, other_data=cross_domain.PICTURES, count=8)
    table = cross_domain.suite(
        [base], [0], {cross_domain.PICTURES: None}, tmp_path / "records", tmp_path / "work", "cpu"
    )
    assert "needs --image-data" in table and "on real data, greedy" not in table


def test_wrong_input_is_one_line(cross_domain, registered, tmp_path, capsys):
    places = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    assert cross_domain.main(["--preset", "paper", *places]) == 2
    assert capsys.readouterr().err == "cross_domain: --text-data: needed for tinyllama\n"
    assert cross_domain.main(["--preset", "tiny", "--only", "txt", *places]) == 2
    assert "--only txt: must be of text, image" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_a_preset_that_needs_hours_runs_on_the_toy(cross_domain, toy_base, tmp_path, monkeypatch, capsys, preset):
    """Its own rows, seeds, lengths and sources, with small numbers; 13 tokens are more than an original has left."""
    bases, seeds = cross_domain.PRESETS[preset]
    own = {"modality": "toy", "model": toy_base, **OPTIONS, "epochs": 2}
    changes = {"count": 8, "other_layers": 1}
    quick = []
    for base in bases:
        lengths = {"new_tokens": (6, 13)} if len(base.new_tokens) == 2 else {}
        data = {field: "numbers" for field in ("data", "other_data") if getattr(base, field) in ("cifar10", "stories")}
        options = {name: value for name, value in base.options.items() if name not in own and name != "precision"}
        quick.append(dataclasses.replace(base, options=options | own, **changes, **lengths, **data))
    monkeypatch.setitem(cross_domain.PRESETS, preset, (tuple(quick), seeds))
    places = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    data = ["--text-data", "numbers", "--image-data", "numbers"]
    assert cross_domain.main(["--preset", preset, *places, *data]) == 0
    table = capsys.readouterr().out
    assert table.startswith((tmp_path / "records" / "table.md").read_text())
    assert table.count("\n## ") + 1 == sum(len(base.new_tokens) for base in bases)
    for base in quick:
        for new in base.new_tokens:
            (part,) = [part for part in table.split("## ") if part.startswith(f"{base.name}{f', {new}' * bool(new)}")]
            names = {line.split(" | ")[0].strip("| ") for line in part.splitlines() if line.startswith("| ")}
            expected = {row.name for row in lineup.rows(0)} | ({"original"} if new != 13 else set())
            assert expected <= names and part.count("greedy") > 8
            assert "and base greedy" in part and "and base top-p" in part
            assert ("No row of originals: they have fewer than 13 tokens" in part) == (new == 13)
            assert ("seeds 0, 1, 2: hyperfitted greedy" in part) == (len(seeds) == 3)


def test_trainings_come_before_any_model_is_loaded(cross_domain, base, tmp_path, monkeypatch):
    """Base, run and the state of another training are more than a GPU holds."""
    calls = []
    for name in ("fit", "load"):
        real = getattr(cross_domain.hypergen, name)
        monkeypatch.setattr(
            cross_domain.hypergen, name, lambda *a, real=real, name=name, **o: calls.append(name) or real(*a, **o)
        )
    cross_domain.suite([base], [0], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert calls.count("fit") == 4 and "fit" not in calls[calls.index("load") :]


def test_every_preset_names_a_modality_there_is(cross_domain):
    for bases, seeds in cross_domain.PRESETS.values():
        assert len(seeds) >= 1 and len({base.name for base in bases}) == len(bases)
        assert all(base.options["modality"] in registry.MODALITIES for base in bases)


def test_the_committed_table_is_that_of_the_committed_records(cells):
    folder = SCRIPT.parent / "records" / "cross-domain-tiny"
    table = (folder / "table.md").read_text()
    for part in table.split("## ")[1:]:
        title, *lines = part.splitlines()
        files = folder.glob(f"{title.split(':')[0]}-seed0-*.json")
        found = {one.row: one for one in (cells.Cell(**json.loads(path.read_text())) for path in files)}
        for one in found.values():
            numbers = {name: cells.tensor_of(value) for name, value in one.examples.items()}
            assert one.values == cells.summaries(numbers, 0)
            assert len(one.prompts) == len(set(one.prompts)) == one.plan["prompts"]
        rows = [line.split(" | ")[0].strip("| ") for line in lines[3:] if line.startswith("| ")]
        assert set(rows) == found.keys()
        assert cells.section(title.split(", seed")[0], [found[row] for row in rows], []) in table
        assert "and base greedy" in part and "lower, and the 95 % intervals do not overlap" in part


def test_a_file_is_planned_by_its_content(cross_domain, tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    first = cross_domain.described({"data": str(tmp_path / "a.jsonl"), "seed": 0})
    assert first["data"].startswith("a.jsonl, SHA-256 ") and str(tmp_path) not in str(first)
    (tmp_path / "a.jsonl").write_text("2")
    assert cross_domain.described({"data": str(tmp_path / "a.jsonl"), "seed": 0}) != first
    assert cross_domain.described({"data": "stories"}) == {"data": "stories"}
