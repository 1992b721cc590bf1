"""The fault matrix and its damages. Alone: pytest tests/benchmarks/test_faults.py"""

import json
import random

import pytest

from benchmarks import faults
from tests.benchmarks.scripts import FOLDER, RECORDS


def test_the_page_has_the_table_of_the_committed_record():
    record = json.loads((RECORDS / "faults.json").read_text())
    assert faults.markdown(record) in (FOLDER / "README.md").read_text()


def test_a_row_that_nobody_named_is_shown_under_its_own_name():
    record = {"hypergen": {"z9": {"cases": 3, "passed": 2}}, "trainer": {"z9": {"cases": 4, "same": 1, "error": 3}}}
    assert faults.markdown(record).splitlines()[-1] == "| z9 | 3 | 2 | 4, 1 (3 error) | - |"


@pytest.mark.parametrize("damage", [faults.flip, faults.truncate])
def test_a_damage_changes_the_file(damage, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content := bytes(range(100)))
    damage(path, random.Random(0))
    damaged = path.read_bytes()
    assert damaged != content and len(damaged) <= len(content)
    if damage is faults.flip:
        changed = [one ^ other for one, other in zip(content, damaged, strict=True) if one != other]
        assert len(changed) == 1 and changed[0].bit_count() == 1
    faults.lose(path, random.Random(0))
    assert not path.exists()
