"""Rows of a run on several domains. Alone: pytest tests/benchmarks/test_effect_domains.py"""

import json

import pytest

import hypergen
from hypergen.evaluation.baselines import BASE_GREEDY, BASE_TOP_P, HYPERFITTED_GREEDY, ORIGINAL
from tests.benchmarks.scripts import load
from tests.text import tiny

domains = load("effect_domains")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A tiny model as run, base and judge, on a few texts a domain, 6 new tokens each."""
    base = tmp_path / "base"
    tiny.modality("llama").save(base)
    for domain in domains.DOMAINS:
        folder = tmp_path / "data" / domain
        folder.mkdir(parents=True)
        rows = [json.dumps({"text": f"{domain}: {text}"}) for text in tiny.TEXTS]
        (folder / "test.jsonl").write_text("\n".join(rows))
    fit = {"sequence_length": 16, "prompt_length": 4, "num_samples": 4, "epochs": 1, "held_out_samples": 2}
    train = tmp_path / "data" / "news" / "test.jsonl"
    run = hypergen.fit(model=str(base), data=str(train), output=str(tmp_path / "run"), device="cpu", **fit)
    monkeypatch.setattr(domains, "JUDGES", {str(base): str(base)})
    monkeypatch.setattr(domains, "NEW_TOKENS", 6)
    monkeypatch.setattr(domains, "NUM_PROMPTS", 3)
    monkeypatch.setattr(domains, "NUM_TEXTS", 2)
    return domains.measure_domains(run, str(base), tmp_path, seed=0)


def test_each_domain_has_four_rows_with_their_metrics_and_the_first_texts(measured):
    names = [BASE_GREEDY, BASE_TOP_P, HYPERFITTED_GREEDY, ORIGINAL]
    assert list(measured) == list(domains.DOMAINS)
    for domain, found in measured.items():
        assert [row["name"] for row in found["rows"]] == names
        assert all({"rep_4", "ttr", "overlap_mean", "judge_loss"} <= row["values"].keys() for row in found["rows"])
        assert [len(texts) for texts in found["completions"].values()] == [2] * 5
        assert list(found["completions"]) == ["prompts", *names]
        assert all(domain[:2] in prompt for prompt in found["completions"]["prompts"])


def test_what_a_row_shows_of_its_model_is_that_of_base_and_run(measured):
    rows = {row["name"]: row["values"] for row in measured["fiction"]["rows"]}
    assert rows[BASE_GREEDY]["loss"]["mean"] != rows[HYPERFITTED_GREEDY]["loss"]["mean"]
    assert "loss" not in rows[BASE_TOP_P] and "loss" not in rows[ORIGINAL]
