"""Records of the suite: pooled over seeds, printed, written and read again.

Alone: pytest tests/benchmarks/test_suite_records.py
"""

import json
import math

import pytest
import torch

from hypergen import registry
from hypergen.evaluation.bootstrap import summaries
from hypergen.report.columns import Columns
from tests.benchmarks.scripts import RECORDS, load

suite_records = load("suite_records")


def record(seed, prompts=("a", "b"), **examples):
    values = summaries({name: suite_records.to_tensor(one) for name, one in examples.items()}, seed)
    place = {"base": "toy", "row": "hyperfitted greedy", "seed": seed, "new_tokens": None, "plan": {}}
    return suite_records.SuiteRecord(**place, prompts=list(prompts), examples=examples, values=values)


def test_a_prompt_of_several_seeds_counts_once():
    """The base continues a prompt alike whatever the seed: three copies are no more evidence than one."""
    one = record(0, rep_4=[0.0, 1.0])
    copies = [one, record(1, rep_4=[0.0, 1.0]), record(2, rep_4=[0.0, 1.0])]
    assert suite_records.pool_seeds(copies) == suite_records.pool_seeds([one])
    apart = suite_records.pool_seeds([one, record(1, ("b", "c"), rep_4=[0.0, 0.25])])
    assert apart["values"]["rep_4"]["mean"] == pytest.approx((0.0 + (1.0 + 0.0) / 2 + 0.25) / 3)


def test_numbers_of_the_whole_set_over_seeds():
    pair = [record(0, overlap_max=7.0, distinct_2=0.5), record(1, overlap_max=12.0, distinct_2=0.7)]
    assert suite_records.pool_seeds(pair)["values"] == {
        "overlap_max": {"mean": 12.0},
        "distinct_2": {"mean": pytest.approx(0.6)},
    }


@pytest.mark.parametrize("order", [1, -1])
def test_a_seed_without_a_number_leaves_it_to_the_others(order):
    pair = [record(0, rep_4=[0.0, 1.0], override_deep=[0.5, None]), record(1, ("c", "d"), rep_4=[1.0, 1.0])]
    values = suite_records.pool_seeds(pair[::order])["values"]
    assert values["rep_4"]["mean"] == 0.75 and values["override_deep"]["mean"] == 0.5


def test_the_spread_over_seeds_and_whose_note_it_is():
    three = [record(seed, (f"a{seed}", f"b{seed}"), rep_4=[0.0, seed / 10]) for seed in (0, 1, 2)]
    three[0].notes.update({"kid": "8 pictures", "hyperfitted greedy": "temperature 0.7"})
    three[1].notes.update({"kid": "8 pictures"})
    three[2].notes.update({"kid": "8 pictures"})
    lines = suite_records.section("toy", three, [], Columns.of(registry.adapter("image").METRICS)).splitlines()
    assert "- rep-4, seeds 0, 1, 2: hyperfitted greedy 0.000, 0.050, 0.100" in lines
    assert lines[-2:] == ["- KID: 8 pictures", "- hyperfitted greedy: temperature 0.7 (seed 0)"]


@pytest.mark.parametrize("content", ["", "[]", '{"plan": ', "\0" * 99, None])
def test_a_damaged_record_counts_as_none(content, tmp_path):
    """The suite computes it again."""
    path = tmp_path / "record.json"
    suite_records.write(path, {"plan": 3})
    assert suite_records.read(path) == {"plan": 3} and list(tmp_path.iterdir()) == [path]
    path.unlink() if content is None else path.write_text(content)
    assert suite_records.read(path) == {}


def test_the_committed_table_is_that_of_the_committed_records():
    folder = RECORDS / "cross-domain-tiny"
    table = (folder / "table.md").read_text()
    for part in table.split("## ")[1:]:
        title, *lines = part.splitlines()
        columns = Columns.of(registry.adapter(title.split(":")[0]).METRICS)
        files = folder.glob(f"{title.split(':')[0]}-seed0-*.json")
        found = {one.row: one for one in (suite_records.SuiteRecord(**json.loads(path.read_text())) for path in files)}
        for one in found.values():
            numbers = {name: suite_records.to_tensor(value) for name, value in one.examples.items()}
            assert one.values == summaries(numbers, 0)
            assert len(one.prompts) == len(set(one.prompts)) == one.plan["prompts"]
        rows = [line.split(" | ")[0].strip("| ") for line in lines[3:] if line.startswith("| ")]
        assert set(rows) == found.keys()
        assert suite_records.section(title.split(", seed")[0], [found[row] for row in rows], [], columns) in table
        assert "and base greedy" in part and "lower, and the 95 % intervals do not overlap" in part


def test_a_file_is_planned_by_its_content(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    first = suite_records.with_file_hashes({"data": str(tmp_path / "a.jsonl"), "seed": 0})
    assert first["data"].startswith("a.jsonl, SHA-256 ") and str(tmp_path) not in str(first)
    (tmp_path / "a.jsonl").write_text("2")
    assert suite_records.with_file_hashes({"data": str(tmp_path / "a.jsonl"), "seed": 0}) != first
    assert suite_records.with_file_hashes({"data": "stories"}) == {"data": "stories"}


def test_numbers_are_recorded_with_six_digits_and_read_again():
    values = torch.tensor([1 / 3, math.nan, 2.0])
    assert suite_records.to_json(values) == [0.333333, None, 2.0] and suite_records.to_json(values[2]) == 2.0
    assert suite_records.to_tensor([0.5, None]).isnan().tolist() == [False, True]
    assert suite_records.to_tensor(2.0).shape == ()


def test_a_row_becomes_part_of_a_file_name():
    assert suite_records.slug("hyperfitted greedy, no citation") == "hyperfitted-greedy-no-citation"
