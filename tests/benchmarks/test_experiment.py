"""Trainings and records of one base and seed. Alone: pytest tests/benchmarks/test_experiment.py"""

import json

import hypergen
from tests.benchmarks.scripts import load

experiment = load("experiment")


def test_early_stopping_takes_the_epoch_with_the_lowest_held_out_loss(folder):
    (main,) = (folder / "work").glob("toy-hyperfitted-seed0-*")
    (early,) = (folder / "work").glob("toy-early-seed0-*")
    log = [json.loads(line) for line in (main / "metrics.jsonl").read_text().splitlines()]
    best = min(log, key=lambda row: row["held_out_loss"])
    ended = [json.loads(line) for line in (early / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in ended] == [row["loss"] for row in log[: best["epoch"]]]


def test_trainings_come_before_any_model_is_loaded(cross_domain, base, tmp_path, monkeypatch):
    """Base, run and the state of another training are more than a GPU holds."""
    calls = []
    for name in ("fit", "load"):
        real = getattr(hypergen, name)
        monkeypatch.setattr(
            hypergen, name, lambda *a, real=real, name=name, **o: calls.append(name) or real(*a, **o), raising=False
        )
    cross_domain.suite([base], [0], {}, tmp_path / "records", tmp_path / "work", "cpu")
    assert calls.count("fit") == 4 and "fit" not in calls[calls.index("load") :]


def test_another_plan_is_computed_again(cross_domain, base, folder):
    (path,) = (folder / "records").glob("toy-seed0-base-greedy.json")
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps(recorded | {"plan": {}}))
    cross_domain.suite([base], [0, 1], {}, folder / "records", folder / "work", "cpu")
    assert json.loads(path.read_text()) == recorded


def test_a_record_is_read_only_where_its_plan_is_the_same(base, folder):
    one = experiment.Experiment(base, 0, {}, folder / "work", "cpu")
    greedy = one.rows[0]
    found = one.recorded(greedy, None, folder / "records")
    assert found is not None and found.plan == one.plan(greedy, None) and found.row == "base greedy"
    assert one.recorded(greedy, 5, folder / "records") is None
    other = experiment.Experiment(base, 2, {}, folder / "work", "cpu")
    assert other.recorded(greedy, None, folder / "records") is None


def test_a_row_quotes_the_training_set_of_its_own_run(base, tmp_path):
    one = experiment.Experiment(base, 0, {}, tmp_path, "cpu")
    trainings = {row.name: one.training_of(row) for row in one.rows}
    assert trainings["base greedy"] == trainings["hyperfitted greedy"] == trainings["original"] == "hyperfitted"
    assert trainings["early-stopped greedy"] == "early"
    assert trainings["hyperfitted on real data, greedy"] == "other-data" == one.prompts_run
