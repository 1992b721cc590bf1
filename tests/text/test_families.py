"""Every family that the README lists goes through fit, generate and evaluate, and loads back as the same model.

The base is what transformers saves, the commands are those of the command line. Alone: pytest
tests/text/test_families.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import hypergen
from hypergen.cli import main as cli
from hypergen.report.verdicts import BASE_GREEDY, BASE_TOP_P, OURS
from tests.text import tiny

WINDOW = 8
FAMILIES = {  # the name in the README -> model type, and how it departs from `tiny`
    "Llama": ("llama", {}),
    "Qwen3": ("qwen3", {}),
    "GPT-2": ("gpt2", {}),
    "GPT-NeoX": ("gpt_neox", {}),
    "OPT": ("opt", {}),
    "Gemma 3 (text)": ("gemma3_text", {}),
    "Phi-3": ("phi3", {}),
    "Mistral with a sliding window": ("mistral", {"sliding_window": WINDOW}),
    "Mixtral": ("mixtral", {}),
    "Mamba": ("mamba", {}),
}
PACKED = {"Llama", "GPT-2"}
PROMPTS = [*(text[:48] for text in tiny.TEXTS[:3]), "The ferryman"]  # three are longer than the windows
NEW = 16
FIT = ["--sequence-length", "24", "--prompt-length", "12", "--num-samples", "8", "--epochs", "2", "--batch-size", "4"]
FIT += ["--learning-rate", "1e-3", "--last-layers", "2", "--held-out-samples", "4", "--measure-every", "0"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, text_data, tmp_path_factory):
    """Its name, and the run of a base that transformers has saved."""
    kind, changes = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(kind)
    tiny.causal(kind, **changes).save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    arguments = ["fit", "--model", str(folder / "base"), "--data", text_data, "--output", str(folder / "run")]
    assert cli.main([*arguments, "--device", "cpu", *FIT]) == 0
    return request.param, folder / "run"


def test_training_moved_the_last_layers_alone(family):
    _, run = family
    before, after = (hypergen.load(folder, device="cpu").modality.model for folder in (run.parent / "base", run))
    for number, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True)):
        same = [one.equal(other) for one, other in zip(old.parameters(), new.parameters(), strict=True)]
        assert all(same) if number < 2 else not all(same)


def test_the_run_loads_back_with_identical_logits(family):
    _, run = family
    theirs, ours = AutoModelForCausalLM.from_pretrained(run), hypergen.load(run, device="cpu").modality.model
    with torch.no_grad():
        assert theirs(input_ids=tiny.tokens(3, 40)).logits.equal(ours(tiny.tokens(3, 40)))
    assert {weight.dtype for weight in theirs.parameters()} == {torch.float32}


def test_generate_gives_the_greedy_ids_of_transformers(family, capsys):
    _, run = family
    options = ["--json", "--max-new-tokens", str(NEW), "--no-stop-at-end", "--device", "cpu"]
    assert cli.main(["generate", str(run), "--prompt", *PROMPTS, *options]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    theirs = AutoModelForCausalLM.from_pretrained(run)
    assert len(records) == len(PROMPTS)
    for record in records:
        expected = tiny.transformers_ids(theirs, torch.tensor([record["prompt_tokens"]]), NEW)
        assert record["completion_tokens"] == expected[0]
    assert max(len(record["prompt_tokens"]) for record in records) > WINDOW


def test_evaluate(family, capsys):
    _, run = family
    options = ["--count", "2", "--max-new-tokens", "6", "--json", "--device", "cpu"]
    assert cli.main(["evaluate", str(run), *options]) == 0, capsys.readouterr().err
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert {OURS, BASE_GREEDY, BASE_TOP_P} < set(names)


def test_decoding_is_what_the_readme_says(family):
    name, run = family
    assert hypergen.load(run, device="cpu").modality.model.supports_left_padding == (name in PACKED)


def test_the_table_of_the_readme_is_this_list():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| family \|.*\n\|[-|: ]+\n((?:\|.*\n)+)", readme, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    ways = {True: "packed copy", False: "transformers' own"}
    assert rows == [[name, "yes", "yes", "yes", "yes", ways[name in PACKED]] for name in FAMILIES]
