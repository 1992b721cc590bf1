"""The notebook of the docs runs from its first cell to its last, without jupyter: what a cell shows can be shown.

Alone: pytest tests/test_notebook.py
"""

import ast
import json
import re
from pathlib import Path

import pytest

import hypergen

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = json.loads((DOCS / "first-run.ipynb").read_text(encoding="utf-8"))
CELLS = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}
TINY = 'options = {"num_samples": 8, "epochs": 1, "held_out_samples": 4, "max_new_tokens": 8, "device": "cpu"}'


def execute(cells):
    """Run cells in one namespace, as a kernel does; give what the last expression of each is."""
    names, shown = {"__name__": "__main__"}, {}
    for name, code in cells.items():
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        if last is not None:
            shown[name] = eval(compile(ast.Expression(last.value), name, "eval"), names)
    return names, shown


def check(names, shown, capsys):
    run = names["run"]
    sentence, *others = capsys.readouterr().out.splitlines()
    assert sentence == run.verdict.sentences[0] and len(others) >= 1
    assert shown["run"] is run and "<table" in run._repr_html_()
    assert "<table" in shown["figure"]._repr_html_()
    assert shown["report"].is_file()


def test_it_is_a_notebook_without_traces_of_a_machine():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell
    )
    identities = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(identities)) == len(identities)
    prose = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    assert all((DOCS / link).exists() for link in re.findall(r"\]\((?!https?:)([^)#]+)", prose))


def test_every_cell_runs_with_tiny_numbers(offline, capsys):
    check(*execute({**CELLS, "parameters": TINY}), capsys)


@pytest.mark.slow
def test_every_cell_runs_as_printed(offline, capsys):
    names, shown = execute(CELLS)
    assert names["run"].verdict.outcome == "hyperfitted"
    check(names, shown, capsys)


def test_options_are_those_of_fit():
    options = ast.literal_eval(CELLS["parameters"].split(" = ")[1])
    assert options.keys() <= hypergen.FitConfig.__dataclass_fields__.keys()
