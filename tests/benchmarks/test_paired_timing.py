"""The protocol of timings, with clocks that are made up. Alone: pytest tests/benchmarks/test_paired_timing.py"""

import itertools

import pytest
import torch

from tests.benchmarks.scripts import load

paired_timing = load("paired_timing")


def clock(*seconds):
    times = itertools.cycle(seconds)
    return lambda: next(times)


def test_the_ratio_is_theirs_by_ours():
    record = paired_timing.time_pair(clock(2.0), clock(6.0), 5)
    assert record["ratio"] == record["low"] == record["high"] == 3.0
    assert (record["seconds"], record["their_seconds"], record["control"]) == (2.0, 6.0, 1.0)
    assert (record["rounds"], record["repeats"]) == (5, 3)


def test_the_shorter_side_is_repeated_but_not_for_ever():
    assert paired_timing.time_pair(clock(1.0), clock(100.0), 1)["repeats"] == paired_timing.MOST_REPEATS
    assert paired_timing.time_pair(clock(100.0), clock(1.0), 1)["repeats"] == 1


def test_the_order_is_ours_theirs_theirs_ours():
    calls = []
    times = {"ours": 1.0, "theirs": 1.0}
    ours, theirs = (lambda name=name: calls.append(name) or times[name] for name in times)
    paired_timing.time_pair(ours, theirs, 2)
    assert calls[4:] == ["ours", "theirs", "theirs", "ours"] * 2  # after the warm-up and the choice of repeats


def test_a_machine_that_is_not_quiet_gives_no_ratio():
    record = paired_timing.time_pair(clock(1.0, 1.1), clock(1.0), 3)
    assert "ratio" not in record and "not quiet" in record["refused"]
    assert abs(record["control"] - 1) > paired_timing.ALLOWED_CONTROL


def test_a_call_is_timed():
    assert 0 < paired_timing.timed(lambda: torch.ones(1000).sum())() < 10


def test_the_roofline_is_the_slower_of_reading_and_computing(monkeypatch):
    monkeypatch.setattr(paired_timing, "read_bandwidth", lambda size: 100.0)
    monkeypatch.setattr(paired_timing, "matmul_rate", lambda: 1000.0)
    assert paired_timing.roofline_seconds(400, 10, 100, rows=2, length=5) == pytest.approx(5.0)  # 500 bytes
    assert paired_timing.roofline_seconds(400, 0, 100_000, rows=1, length=5) == pytest.approx(200.0)
