"""The suite on the toy: what it leaves, that it repeats, that it goes on. Alone: pytest tests/test_cross_domain.py"""

import importlib.util
import json
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
        assert {"python", "torch", "hypergen"} <= cell["versions"].keys() and cell["machine"]
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
    assert table.startswith("## toy: 8 prompts, seeds 0, 1\n")
    for row in lineup.rows(0):
        assert f"| {row.name} " in table
    assert "- rep-4: hyperfitted greedy" in table
    chart = (folder / "records" / "tradeoff-toy-seed1.svg").read_text()
    assert chart.count("<polyline") == 5 and "http://www.w3.org/2000/svg" in chart and "href" not in chart


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


def test_every_preset_names_a_modality_there_is(cross_domain):
    for bases, seeds in cross_domain.PRESETS.values():
        assert len(seeds) >= 1 and len({base.name for base in bases}) == len(bases)
        assert all(base.options["modality"] in registry.MODALITIES for base in bases)


def test_a_file_is_planned_by_its_content(cross_domain, tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    first = cross_domain.described({"data": str(tmp_path / "a.jsonl"), "seed": 0})
    assert first["data"].startswith("a.jsonl, SHA-256 ") and str(tmp_path) not in str(first)
    (tmp_path / "a.jsonl").write_text("2")
    assert cross_domain.described({"data": str(tmp_path / "a.jsonl"), "seed": 0}) != first
    assert cross_domain.described({"data": "stories"}) == {"data": "stories"}
