"""The record of effects, and its tables. Alone: pytest tests/benchmarks/test_effect.py"""

import pytest

from tests.benchmarks.scripts import FOLDER, RECORDS, load

effect = load("effect")


def test_the_page_has_the_tables_of_the_committed_records():
    assert effect.tables(RECORDS) in (FOLDER / "README.md").read_text()


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
