"""The log of a training, and the rule that reads it. Alone: pytest tests/training/test_monitor.py"""

import json
from types import SimpleNamespace

import pytest

import hypergen
from hypergen.config import FitConfig
from hypergen.errors import InputError
from hypergen.storage.metrics_log import read_metrics
from hypergen.training.loop import hyperfit
from hypergen.training.monitor import TrainingMonitor
from hypergen.training.plan import EpochMetrics, TrainingHooks
from tests.conftest import QUICK_TOY
from tests.training.plans import new_plan, sequences, toy

METRICS = EpochMetrics(loss=1.0, accuracy=0.5)


def test_every_so_many_epochs(tmp_path):
    told = []
    tracker = SimpleNamespace(log=lambda epoch, metrics: told.append(metrics))
    options = {"quick_metrics": lambda: {"overlap_mean": 3.0}, "every": 2, "max_overlap": None}
    monitor = TrainingMonitor(folder=tmp_path, trackers=[tracker], **options)
    for epoch in (1, 2, 3, 4):
        monitor.on_epoch(epoch, METRICS)
    assert [row["epoch"] for row in read_metrics(tmp_path) if "overlap_mean" in row] == [2, 4]
    assert told[:2] == [{"loss": 1.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.5, "overlap_mean": 3.0}]


def test_the_rule_reads_the_log(tmp_path):
    overlaps = iter([2.0, 4.0, 4.1])
    monitor = TrainingMonitor(
        folder=tmp_path, quick_metrics=lambda: {"overlap_mean": next(overlaps)}, every=1, max_overlap=4.0
    )
    for epoch in (1, 2, 3):
        monitor.on_epoch(epoch, METRICS)
    again = TrainingMonitor(folder=tmp_path, quick_metrics=None, every=0, max_overlap=4.0)  # as in a later process
    assert [again.stop_rule(epoch) for epoch in (1, 2, 3, 4)] == [None, None, "overlap", None]
    assert TrainingMonitor(folder=tmp_path, quick_metrics=None, every=0, max_overlap=None).stop_rule(3) is None


def test_a_training_stops_by_the_rule(tmp_path):
    monitor = TrainingMonitor(folder=tmp_path, quick_metrics=lambda: {"overlap_mean": 5.0}, every=1, max_overlap=4.0)
    hooks = TrainingHooks(on_epoch=monitor.on_epoch, stop_rule=monitor.stop_rule)
    result = hyperfit(toy(), sequences(10), new_plan(steps=9), hooks)
    assert (result.stopped_by, result.epochs) == ("overlap", 1)
    training = {"loss": result.loss, "accuracy": result.accuracy}
    assert read_metrics(tmp_path) == [{"epoch": 1} | training | {"overlap_mean": 5.0}]


def test_a_fit_ends_where_it_quotes(toy_base, tmp_path):
    options = QUICK_TOY | {"model": toy_base, "epochs": 8, "measure_every": 1}
    free = hypergen.fit(**options, output=str(tmp_path / "free"))
    overlaps = [row["overlap_mean"] for row in read_metrics(tmp_path / "free")]
    assert len(overlaps) == 8 and free.record["training"]["stopped_by"] == "epochs"
    first = next(epoch for epoch, overlap in enumerate(overlaps, 1) if overlap > min(overlaps))
    stopped = hypergen.fit(**options, max_overlap=min(overlaps), output=str(tmp_path / "stopped"))
    assert (stopped.record["training"]["stopped_by"], stopped.record["training"]["epochs"]) == ("overlap", first)
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "free")[:first]


def test_held_out_metrics_do_not_change_the_training(toy_base, tmp_path):
    options = QUICK_TOY | {"model": toy_base}
    looked = hypergen.fit(**options, measure_every=1, output=str(tmp_path / "looked"))
    blind = hypergen.fit(**options, measure_every=0, output=str(tmp_path / "blind"))
    assert looked.records == blind.records
    assert [row.keys() for row in read_metrics(tmp_path / "blind")] == [{"epoch", "loss", "accuracy"}] * 3
    last, table = read_metrics(tmp_path / "looked")[-1], looked.records[2]["values"]
    assert last["ttr"] == pytest.approx(table["ttr"]["mean"]) and last["entropy"] == pytest.approx(
        table["entropy"]["mean"]
    )
    page = (tmp_path / "looked" / "report.html").read_text()
    for title in ("training loss", "training token accuracy", "held-out loss", "entropy", "TTR", "overlap mean"):
        assert f"<b>{title}</b>" in page
    assert json.loads((tmp_path / "looked" / "hypergen.json").read_text())["look_before"].keys() <= last.keys()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_overlap": -1.0}, "--max-overlap -1.0: must be finite, 0 tokens or more"),
        ({"max_overlap": 5.0, "measure_every": 0}, "--max-overlap 5.0: needs --measure-every 1 or more"),
        ({"measure_every": -1}, "--measure-every -1: must be a whole number, 0 or more"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        FitConfig(**options)
