"""The log of a training survives a kill and can be rewound. Alone: pytest tests/storage/test_metrics_log.py"""

import errno

import pytest

from hypergen.errors import DiskError
from hypergen.storage.metrics_log import append_metrics, read_metrics, rewind_metrics
from tests.conftest import tree
from tests.storage.faulty_disk import failing


def test_the_log_is_rewound_and_half_a_line_is_passed_over(tmp_path):
    for epoch in (1, 2, 3):
        append_metrics(tmp_path, {"epoch": epoch, "loss": 1 / epoch})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    rewind_metrics(tmp_path, 2)
    append_metrics(tmp_path, {"epoch": 3, "loss": 0.5})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 0.5, 0.5]
    rewind_metrics(tmp_path / "nothing", 2)
    assert read_metrics(tmp_path / "nothing") == []


@pytest.mark.parametrize("line", ["", "{", "[1]", "3", '{"loss": 1}', '{"epoch": "1"}', "\xff"])
def test_what_is_no_line_of_an_epoch_is_skipped(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + line.encode("latin-1") + b'\n{"epoch": 2}\n')
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", ["null", '"1.5"', "true", "[1]", '{"a": 1}'])
def test_a_row_with_a_value_that_is_no_number_is_left_out_before_the_training(value, tmp_path, capsys):
    rows = f'{{"epoch": 1, "loss": {value}}}\n{{"epoch": 2, "loss": 0.5}}\n{"[" * 200_000}\n'
    (tmp_path / "metrics.jsonl").write_text(rows)
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [2]
    rewind_metrics(tmp_path, 5)
    assert "2 of its 3 lines are not of a training log; they are left out" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 2, "loss": 0.5}\n'
    rewind_metrics(tmp_path, 5)
    assert capsys.readouterr().err == ""


def test_a_full_disk_leaves_the_former_log(tmp_path):
    append_metrics(tmp_path, {"epoch": 1})
    before = tree(tmp_path)
    with failing("replace", 1, errno.ENOSPC), pytest.raises(DiskError):
        append_metrics(tmp_path, {"epoch": 2})
    assert tree(tmp_path) == before


def test_no_log_stays_no_log(tmp_path):
    rewind_metrics(tmp_path, 3)
    assert tree(tmp_path) == {}
