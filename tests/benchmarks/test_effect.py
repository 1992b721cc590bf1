"""The record of effects, and its tables. Alone: pytest tests/benchmarks/test_effect.py"""

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks.scripts import FOLDER, RECORDS, load

effect = load("effect")


def test_the_page_has_the_tables_of_the_committed_records():
    assert effect.tables(RECORDS) in (FOLDER / "README.md").read_text()


def test_the_readme_has_only_lines_of_the_records():
    shown = [
        line for line in (FOLDER.parent / "README.md").read_text().splitlines() if re.match(r"\| .*; [\d, ]+ \|", line)
    ]
    assert len(shown) > 12 and not set(shown) - set(effect.tables(RECORDS).splitlines())


def test_one_seed_shows_its_interval_and_several_their_range():
    one = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert effect._number([one]) == "0.500 [0.400, 0.600]"
    assert effect._number([one, {"mean": 0.7}]) == "0.600 [0.500, 0.700]"
    assert effect._number([{"mean": 0.5}]) == "0.500"
    assert effect._number([None]) == ""


def test_a_case_without_its_folder_says_what_to_give(tmp_path):
    assert effect._below(tmp_path, "data/x.jsonl") == str(tmp_path / "data/x.jsonl")
    assert effect._below(None, "stories") == "stories"
    with pytest.raises(SystemExit, match="give --shared"):
        effect._below(None, "models/x")


def test_every_case_has_a_name():
    assert effect.CASES.keys() == effect.NAMES.keys()


CASE = "smollm2-135m-fiction"


@pytest.fixture
def measured(monkeypatch):
    """Seeds that a child process was asked for; it writes what a real one would, without a model."""
    asked = []

    def run(command, check):
        seed = int(command[command.index("--seeds") + 1])
        asked.append(seed)
        record = {"case": CASE, "seed": seed, "recipe": effect.recipe(CASE)}
        Path(command[command.index("--records") + 1]).write_text(json.dumps(record))

    monkeypatch.setattr(effect.subprocess, "run", run)
    return asked


def test_a_seed_is_measured_once_and_recorded_as_it_ends(measured, tmp_path):
    effect.measure_seeds(CASE, [1], None, tmp_path)
    effect.measure_seeds(CASE, [0, 1, 2], None, tmp_path)
    assert measured == [1, 0, 2]
    records = json.loads((tmp_path / f"effect-{CASE}.json").read_text())
    assert [record["seed"] for record in records] == [0, 1, 2]


def test_a_seed_that_is_recorded_with_another_recipe_is_measured_again(measured, tmp_path):
    effect.write_records(tmp_path, CASE, [{"seed": 0, "recipe": {"epochs": 1}}])
    effect.measure_seeds(CASE, [0], None, tmp_path)
    assert measured == [0]


def test_the_name_of_a_base_stands_for_own_samples_and_fiction():
    assert effect.GROUPS["gemma-3-270m"] == ["gemma-3-270m-self", "gemma-3-270m-fiction"]
    assert all(case in effect.CASES for cases in effect.GROUPS.values() for case in cases)


def test_the_tables_of_real_bases_have_a_line_a_training_and_a_line_a_domain_and_decoding(tmp_path):
    def record(seed, rep_4):
        rows = [{"name": "hyperfitted greedy", "values": {"rep_4": {"mean": rep_4}, "judge_loss": {"mean": 0.9}}}]
        return {
            "case": CASE,
            "seed": seed,
            "recipe": effect.recipe(CASE) | {"num_samples": 77},
            "training": {"loss": 0.1 * seed},
            "seconds": 100.0 + seed,
            "peak_mb": 2000.0,
            "domains": {"wiki": {"rows": rows}},
        }

    effect.write_records(tmp_path, CASE, [record(1, 0.02), record(2, 0.04)])
    fits, domains = effect.tables(tmp_path).split("\n\n")[-2:]
    title = "SmolLM2-135M-Instruct, fiction; 1, 2"
    assert f"| {title} | 77 |" in fits and "0.150 [0.100, 0.200] | 102 | 2000 |" in fits
    assert f"| {title} | wiki | hyperfitted greedy | 0.030 [0.020, 0.040] |" in domains
    assert "0.900 [0.900, 0.900]" in domains
