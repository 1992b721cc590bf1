"""Rows of a table show themselves, and are a list all the same. Alone: pytest tests/evaluation/test_records.py"""

import json
import pickle

import pytest

from hypergen.errors import InputError
from hypergen.evaluation.records import Records
from hypergen.modality import Metric
from hypergen.report.columns import Columns
from hypergen.runtime import dependencies

ROWS = [
    {"name": "base greedy", "values": {"ttr": {"mean": 0.2, "low": 0.1, "high": 0.3}, "overlap_mean": {"mean": 4.0}}},
    {"name": "<b>", "values": {"ttr": {"mean": 0.9}, "overlap_mean": {"mean": 5.0}, "own": {"mean": 3.0}}},
]
COLUMNS = Columns.of({"own": Metric(head="Own & odd", meaning="a number")})


def test_it_is_the_list_that_it_was():
    records = Records(ROWS)
    assert records == ROWS and json.loads(json.dumps(records)) == ROWS and records[1:] == ROWS[1:]
    assert pickle.loads(pickle.dumps(Records(ROWS, COLUMNS)))._repr_html_() == Records(ROWS, COLUMNS)._repr_html_()


def test_it_is_short_in_a_console():
    assert repr(Records(ROWS)) == "<2 records: base greedy, <b>>" and repr(Records()) == "<0 records: >"


def test_it_is_a_table_in_a_notebook():
    page = Records(ROWS, COLUMNS)._repr_html_()
    assert page.startswith("<table>") and page.count("<tr>") == 3
    assert "<th>TTR</th><th>overlap mean</th><th>Own &amp; odd</th>" in page
    assert "<tr><th>base greedy</th><td>0.200 [0.100, 0.300]</td><td>4.000</td><td>-</td></tr>" in page
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_it_is_flat_in_pandas():
    pytest.importorskip("pandas")
    table = Records(ROWS).to_dataframe()
    assert list(table.columns) == ["ttr", "ttr_low", "ttr_high", "overlap_mean", "own"]
    assert table.index.name == "name" and table.loc["<b>", "own"] == 3.0 and table["ttr_low"].isna().tolist()[1]


def test_without_pandas_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: False)
    with pytest.raises(InputError, match=r"^to_dataframe: needs pandas \(pip install 'pandas>=2'\)$"):
        Records(ROWS).to_dataframe()
