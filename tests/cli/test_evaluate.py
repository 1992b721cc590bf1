"""What `hypergen evaluate` prints and writes. Alone: pytest tests/cli/test_evaluate.py"""

import json

import pytest

import hypergen
from hypergen.report.verdicts import shown_title
from hypergen.storage.manifest import check_manifest
from tests.cli.shown import complaint, output
from tests.conftest import tree


def test_evaluate_prints_a_table_and_writes_the_figure(text_run, tmp_path, capsys):
    lines = output(capsys, "evaluate", text_run, "--output", str(tmp_path / "out"), "--count", "4")
    assert "| base greedy" in "".join(lines) and lines[-1] == f"wrote {tmp_path}/out"
    assert tree(tmp_path / "out").keys() == {"records.json", "records.md", "report.html", "manifest.json"}
    check_manifest(tmp_path / "out")
    written = (tmp_path / "out" / "records.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith("|")]
    table = [line for line in written if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table] == [line.split("|")[1].strip() for line in shown]
    below = [line for line in lines if not line.startswith("|")][:-1]
    assert written[len(table) + 1 :] == [f"- {line}" for line in below]
    assert "4 prompts of 4 tokens, 12 new tokens each" in below
    assert any(line.startswith("self-BLEU: self:excluded|pool:4|nrefs:3|") for line in below)
    run = hypergen.load(text_run, device="cpu")
    title = shown_title("hyperfitted greedy", run.verdict)
    assert any(line.startswith(run.verdict.outcome.capitalize()) for line in below)
    assert "lower is better" in shown[0] and f"| {title} " in "".join(shown)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f'<p class="verdict {run.verdict.outcome.replace(" ", "-")}">' in page
    sentences = [line for line in lines if line.startswith(f"rep-4: {title}")]
    assert [sentence.split(" and ")[1].split(" 0.")[0] for sentence in sentences] == ["base greedy", "base top-p"]


def test_evaluate_says_which_base_it_lacks(text_run, capsys):
    assert "nowhere/at/all" in complaint(capsys, "evaluate", text_run, "--baseline", "nowhere/at/all")


def test_evaluate_prints_json_that_repeats_the_numbers_of_fit(text_run, capsys):
    (line,) = output(capsys, "evaluate", text_run, "--json")
    values = {record["name"]: record["values"] for record in json.loads(line)}
    for record in hypergen.load(text_run, device="cpu").records:
        assert record["values"].items() <= values[record["name"]].items()


@pytest.mark.parametrize("kind", ["text_run", "toy_run"])
def test_rows_and_curves_between_base_and_run(kind, request, tmp_path, capsys):
    run = request.getfixturevalue(kind)
    options = ["--interpolations", "0.5", "0.25", "--count", "4"]
    lines = output(capsys, "evaluate", run, "--output", str(tmp_path / "out"), *options)
    assert any(line.startswith("interpolated: weights (1 - a) * base + a * run") for line in lines)
    records = {row["name"]: row["values"] for row in json.loads((tmp_path / "out" / "records.json").read_text())}
    assert list(records)[-3:] == ["interpolated 0.25 greedy", "interpolated 0.5 greedy", "original"]
    assert {"perplexity", "ttr", "rep_4", "overlap_mean", "agreement"} <= records["interpolated 0.5 greedy"].keys()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Between the base (alpha 0) and the run (1)</h2>" in page
    first, last = (records[name]["loss"]["mean"] for name in ("base greedy", "hyperfitted greedy"))
    assert f"held-out loss: {first:.3f} at alpha 0, {last:.3f} at alpha 1" in page
    assert all(f"<b>{name}</b>" in page for name in ("TTR", "rep-4", "overlap mean"))


def test_without_interpolations_there_is_no_curve(toy_run, tmp_path, capsys):
    output(capsys, "evaluate", toy_run, "--output", str(tmp_path / "out"), "--count", "2", "--max-new-tokens", "2")
    assert "Between the base" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("alpha", ["0", "1", "-0.5", "nan", "two"])
def test_interpolations_lie_between(alpha, toy_run, capsys):
    assert "--interpolations" in complaint(capsys, "evaluate", toy_run, "--interpolations", "0.5", alpha)
