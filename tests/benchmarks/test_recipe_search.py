"""Trials of recipes. Alone: pytest tests/benchmarks/test_recipe_search.py"""

import json

import pytest

from tests.benchmarks.scripts import load
from tests.text import tiny

search = load("recipe_search")
RECIPE = {"num_samples": 4, "epochs": 3, "learning_rate": 1e-2, "batch_size": 2, "last_layers": 1}


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder with fiction, and a tiny base that judges itself; 6 new tokens of prompts of 32."""
    (tmp_path / "data" / "fiction").mkdir(parents=True)
    for name in ("train", "validation"):
        rows = [json.dumps({"text": f"{name} {n}: {text}"}) for n, text in enumerate(tiny.TEXTS)]
        (tmp_path / "data" / "fiction" / f"{name}.jsonl").write_text("\n".join(rows))
    base = str(tmp_path / "base")
    tiny.modality().save(tmp_path / "base")
    monkeypatch.setattr(search, "JUDGES", {base: base})
    monkeypatch.setattr(search, "NEW_TOKENS", 6)
    monkeypatch.setattr(search, "NUM_PROMPTS", 3)
    return tmp_path


@pytest.mark.parametrize("data", ["self", "fiction"])
def test_a_trial_has_the_base_every_second_epoch_the_last_one_and_the_originals(shared, data):
    recipe = RECIPE | {"sequence_length": 40}
    rows = search.try_recipe(str(shared / "base"), shared, data=data, seed=0, every=2, recipe=recipe)
    assert [row["name"] for row in rows] == ["base greedy", "base top-p", "epoch 2", "epoch 3", "original"]
    assert all("judge_loss" in row["values"] for row in rows)
    assert rows[3]["training_loss"] < rows[2]["training_loss"] and "training_loss" not in rows[0]
    assert "| epoch 3 |" in search.table({"data": data, "seed": 0, "recipe": recipe, "rows": rows})


def test_a_trial_is_recorded_once(shared, monkeypatch, capsys):
    tried = []
    monkeypatch.setattr(search, "JUDGES", {"smollm2-135m": "x"})
    monkeypatch.setattr(search, "try_recipe", lambda *given, **asked: tried.append(asked["recipe"]) or [])
    line = ["recipe_search.py", "smollm2-135m", "--shared", str(shared), "--records", str(shared), "--recipe"]
    for changes in (["epochs=5"], ["epochs=5"], ["epochs=6", "learning_rate=1e-5"]):
        monkeypatch.setattr("sys.argv", [*line, *changes])
        search.main()
    assert [recipe["epochs"] for recipe in tried] == [5, 6] and tried[1]["learning_rate"] == 1e-5
    assert tried[0]["num_samples"] == search.named_bases.card("smollm2-135m")["fit"]["data"]["num_samples"]
    assert len(json.loads((shared / "recipes-smollm2-135m.json").read_text())) == 2
