"""The suite on the toy: what it leaves, that it repeats, that it goes on.

Alone: pytest tests/benchmarks/test_cross_domain.py
"""

import dataclasses
import json
import os
import re
import signal

import pytest

from hypergen.evaluation import baselines
from tests.conftest import tree


def records(folder):
    return {name: content for name, content in tree(folder / "records").items() if name != "times.json"}


def test_one_record_a_row_and_seed(folder):
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("toy-seed*.json")]
    rows = [row.name for row in baselines.baselines(0)]
    rows += [
        "early-stopped greedy",
        "hyperfitted last 1 blocks, greedy",
        "hyperfitted on real data, greedy",
        "original",
    ]
    expected = sorted((row, seed) for row in rows for seed in (0, 1))
    assert sorted((record["row"], record["seed"]) for record in found) == expected
    for record in found:
        assert len(record["prompts_sha256"]) == len(record["data_sha256"]) == 64
        assert {"python", "torch", "hypergen"} <= record["versions"].keys() and record["machine"]["device"] == "cpu"
        assert len(record["examples"]["rep_4"]) == 8 and {"mean", "low", "high"} == record["values"]["rep_4"].keys()
    assert {record["prompts_sha256"] for record in found if record["seed"] == 0} != {
        record["prompts_sha256"] for record in found if record["seed"] == 1
    }


def test_the_table_has_every_row_and_says_what_the_intervals_say(folder):
    table = (folder / "records" / "table.md").read_text()
    assert re.match(r"## toy: 8 prompts a seed, (8|9|1\d) different, seeds 0, 1\n", table)
    for row in baselines.baselines(0):
        assert f"| {row.name} " in table
    assert "- rep-4: hyperfitted greedy" in table
    chart = (folder / "records" / "tradeoff-toy-seed1.svg").read_text()
    assert (
        chart.count("<polyline") == 1
        and chart.count('<rect class="mark') == 4
        and "http://www.w3.org/2000/svg" in chart
        and "href" not in chart
    )


def test_the_same_seed_gives_the_same_bytes(cross_domain, base, folder, tmp_path):
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert records(tmp_path) == records(folder)


def test_a_stopped_suite_goes_on(cross_domain, base, folder, tmp_path, monkeypatch):
    calls = []

    def add_row(compare, row, models, real=baselines.add_row):
        calls.append(row.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(compare, row, models)

    monkeypatch.setattr(baselines, "add_row", add_row)
    with pytest.raises(KeyboardInterrupt):
        cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert len(calls) == 1 + 2 * 14 and records(tmp_path) == records(folder)
    calls.clear()
    monkeypatch.setattr("hypergen.fit", None)
    cross_domain.suite([base], [0, 1], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert not calls


def test_a_signal_is_one_line(cross_domain, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cross_domain.PRESETS, "tiny", ((base,), (0,)))
    monkeypatch.setattr(baselines, "add_row", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    places = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert cross_domain.main(["--preset", "tiny", *places]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "cross_domain: stopped by signal 2"


def test_a_row_without_its_data_is_named(cross_domain, base, tmp_path):
    base = dataclasses.replace(base, other_data=cross_domain.PICTURES, other_layers=2)
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
def test_a_preset_that_needs_hours_runs_on_the_toy(cross_domain, toy_options, tmp_path, monkeypatch, capsys, preset):
    """Its own rows, seeds, lengths and sources, with small numbers; 13 tokens are more than an original has left."""
    bases, seeds = cross_domain.PRESETS[preset]
    own = toy_options | {"epochs": 2}
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
            expected = {row.name for row in baselines.baselines(0)} | ({"original"} if new != 13 else set())
            assert expected <= names and part.count("greedy") > 8
            assert "and base greedy" in part and "and base top-p" in part
            assert ("No row of originals: they have fewer than 13 tokens" in part) == (new == 13)
            assert ("seeds 0, 1, 2: hyperfitted greedy" in part) == (len(seeds) == 3)
