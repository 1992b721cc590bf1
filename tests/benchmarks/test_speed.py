"""The table of speeds. Alone: pytest tests/benchmarks/test_speed.py"""

import json

from tests.benchmarks.scripts import FOLDER, RECORDS, load

speed = load("speed")


def test_the_page_has_the_table_of_the_committed_record():
    rows = json.loads((RECORDS / "speed-cpu.json").read_text())["rows"]
    assert speed.table(rows) in (FOLDER / "README.md").read_text()


def test_a_refused_ratio_says_why():
    case = {"name": "x", "refused": "not quiet", "rate": 5.0, "unit": "tokens/s", "control": 1.2}
    assert speed.table({"R1": [case]}).splitlines()[-1] == "| R1 | x | not quiet | 5 tokens/s |  |  | 1.200 |  |"
