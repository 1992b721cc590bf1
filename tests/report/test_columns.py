"""Which columns a table has, in which order. Alone: pytest tests/report/test_columns.py"""

import ast
import math
import subprocess
import sys
from pathlib import Path

import pytest

import hypergen.report
from hypergen import registry
from hypergen.modality import Metric
from hypergen.report.columns import DIVERSITY_METRICS, PREDICTION_METRICS, Columns, is_measured, part_of, title_of
from hypergen.report.markdown import markdown
from hypergen.report.page import page
from hypergen.report.table import cells
from hypergen.report.terminal import terminal
from tests.report.records import COLUMNS, CORE, OWN_METRICS, RECORDS, record

FOLDER = Path(hypergen.report.__file__).parent
DIVERSE = [name for name, metric in COLUMNS.metrics.items() if metric.is_diversity]


def test_an_adapters_metrics_stand_between_diversity_and_predictions():
    assert list(COLUMNS.metrics) == [*DIVERSITY_METRICS, *OWN_METRICS, *PREDICTION_METRICS]
    further = {"thing": Metric(head="thing", meaning="of another adapter")}
    both = Columns.of(OWN_METRICS, further)
    assert both.names([record("x", loss=1.0, thing=2.0, rows_copied=0.5, rep_4=0.1)]) == [
        "rep_4",
        "rows_copied",
        "thing",
        "loss",
    ]


def test_the_core_has_the_metrics_that_it_has_always_had():
    assert list(DIVERSITY_METRICS) == [
        *("ttr", "overlap_mean", "overlap_max", "overlap_over_10", "mattr", "rep_2", "rep_3", "rep_4"),
        *(f"distinct_{n}" for n in (1, 2, 3, 4)),
    ]
    assert list(PREDICTION_METRICS) == [
        *("train_loss", "loss", "perplexity", "entropy", "top1_probability", "top3_probability", "top5_probability"),
        *("agreement", "rank_shift", "override", "override_deep"),
    ]
    details = {name for name, metric in CORE.metrics.items() if metric.is_detail}
    assert details == {
        *("rep_2", "rep_3", "mattr", "distinct_1", "distinct_2", "distinct_3", "distinct_4"),
        *("perplexity", "top3_probability", "top5_probability", "rank_shift", "override_deep"),
    }
    assert {name for name, metric in CORE.metrics.items() if metric.is_diversity} == {
        *("ttr", "mattr", "distinct_1", "distinct_2", "distinct_3", "distinct_4")
    }


@pytest.mark.parametrize("modality", registry.MODALITIES)
def test_an_adapters_metrics_are_its_own(modality):
    metrics = registry.adapter(modality).METRICS
    assert metrics and not metrics.keys() & CORE.metrics.keys()
    heads = [metric.head for metric in Columns.of(metrics).metrics.values()]
    assert len(set(heads)) == len(heads)


def test_heads_are_distinct_and_meanings_are_one_line():
    assert len({metric.head for metric in CORE.metrics.values()}) == len(CORE.metrics)
    assert all(metric.meaning and "\n" not in metric.meaning for metric in CORE.metrics.values())
    assert all(CORE.head(name) and "_" not in CORE.head(name) for name in CORE.metrics)


def test_a_metric_that_nobody_declared_is_readable():
    assert CORE.head("my_new_measure\x1b[31m") == "my new measure[31m"
    assert CORE.metric("my_new_measure").decimals == 3
    assert CORE.names([record("x", my_new_measure=2.0, loss=1.0)]) == ["loss", "my_new_measure"]


def test_details_are_not_brief():
    shown = CORE.brief([record("x", rep_2=0.1, rep_4=0.1, override=0.4, override_deep=0.1, thing=1.0)])
    assert shown == ["rep_4", "override", "thing"]


def test_the_columns_of_the_verdict_come_first():
    one = record("x", ttr=0.5, overlap_mean=3.0, overlap_max=9.0, overlap_over_10=0.0, rep_4=0.1, loss=1.0, rep_2=0.2)
    assert CORE.summary([one]) == ["rep_4", "ttr", "overlap_mean", "overlap_max"]
    assert CORE.brief([one], first=CORE.summary([one])) == [*CORE.summary([one]), "overlap_over_10", "loss"]
    assert CORE.brief([one]) == ["ttr", "overlap_mean", "overlap_max", "overlap_over_10", "rep_4", "loss"]
    copied = {"name": "x", "values": one["values"] | {"rows_copied": {"mean": 0.5}}}
    assert COLUMNS.summary([copied])[0] == "rows_copied" and "rep_4" not in COLUMNS.summary([copied])
    assert CORE.summary([record("x", loss=1.0)]) == []


@pytest.mark.parametrize("modality", registry.MODALITIES)
def test_the_last_screen_of_a_modality_has_at_most_six_columns_that_say_what_is_better(modality):
    columns = Columns.of(registry.adapter(modality).METRICS)
    names = columns.summary([record("x", **dict.fromkeys(columns.metrics, 0.5))])
    assert 4 <= len(names) <= 5 and all(columns.direction(name) for name in names)  # and the names of the rows
    assert columns.metric(names[0]).is_verdict and columns.metric(names[0]).plain
    assert all(columns.direction(name) == "lower is better" for name in columns.verdict_names)


def test_the_metric_of_a_verdict_is_one_that_every_record_has():
    both = [record("x", rows_copied=0.1, rep_4=0.2), record("y", rep_4=0.3)]
    assert COLUMNS.judged(both) == "rep_4"
    assert COLUMNS.judged(both[:1]) == "rows_copied"
    assert COLUMNS.judged([*both, record("z", ttr=0.3)]) is None


def test_a_title_is_shown_in_place_of_a_name():
    assert title_of(record("x")) == "x" and title_of({**record("x"), "title": "y"}) == "y"
    assert cells([{**record("x", loss=1.0), "title": "y"}], CORE)[1] == ["y", "1.000"]


def test_the_meanings_are_those_of_the_metrics_there():
    assert CORE.meanings([record("x", loss=1.0, thing=2.0)]) == [
        ("held-out loss", PREDICTION_METRICS["loss"].meaning),
    ]
    assert CORE.meanings([record("x", loss=1.0, rep_4=2.0)], ["rep_4"])[0][0] == "rep-4"


@pytest.mark.parametrize("name", DIVERSE)
def test_every_metric_of_diversity_needs_the_overlap(name):
    with pytest.raises(ValueError, match=f"have {name} but no overlap_mean"):
        cells([record("x", **{name: 0.5})], COLUMNS)
    assert COLUMNS.names([record("x", **{name: 0.5}, overlap_mean=3.0, rep_4=0.1)], [name, "rep_4"]) == [
        name,
        "overlap_mean",
        "rep_4",
    ]


def test_overlap_stands_beside_the_first_metric_of_diversity():
    shown = COLUMNS.names([record("x", self_bleu=20.0, ttr=0.5, mattr=0.6, overlap_mean=3.0, overlap_max=9.0)])
    assert shown == ["ttr", "overlap_mean", "overlap_max", "mattr", "self_bleu"]


def test_overlap_stands_beside_ttr_whatever_was_asked_for():
    assert CORE.names(RECORDS, ["loss", "ttr", "rep_4"]) == ["loss", "ttr", "overlap_mean", "rep_4"]
    asked = ["overlap_max", "ttr", "loss", "overlap_mean"]
    assert CORE.names(RECORDS, asked) == ["ttr", "overlap_max", "overlap_mean", "loss"]
    assert CORE.names(RECORDS, ["loss", "loss"]) == ["loss"]


def show_page(records, columns):
    return page("t", records, columns, facts={}, curves={}, figure=None)


@pytest.mark.parametrize("show", [markdown, terminal, show_page])
def test_diversity_without_overlap_is_refused(show):
    for records in ([record("x", ttr=0.5)], [record("x", ttr=0.5, overlap_mean=math.nan), record("y", loss=1.0)]):
        with pytest.raises(ValueError, match="never shown without overlap"):
            show(records, CORE)
    show([record("x", ttr=0.5), record("y", overlap_mean=2.0)], CORE)
    show([record("x", ttr=math.nan)], CORE)


def test_a_number_that_is_absent_or_nan_is_none():
    one = {"name": "x", "values": {"a": {"mean": math.nan, "low": 0.5}, "b": None}}
    assert [part_of(one, name, part) for name, part in (("a", "mean"), ("a", "low"), ("b", "mean"), ("c", "mean"))] == [
        *(None, 0.5, None, None)
    ]
    assert not is_measured([one], "a") and is_measured([one, record("y", a=1.0)], "a")


# What the package may import.


def test_importing_the_report_loads_neither_models_nor_rich():
    modules = ", ".join(f"hypergen.report.{path.stem}" for path in FOLDER.glob("*.py") if path.stem != "__init__")
    heavy = {"torch", "PIL", "transformers", "numpy", "rich"}
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_report_imports_the_standard_library_the_console_and_the_contract(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {name for name in names if name.startswith("hypergen.report.")}
    other = {name for name in names - own if name.split(".")[0] not in sys.stdlib_module_names}
    allowed = {"hypergen.runtime.console", "hypergen.modality", "hypergen.config"}
    assert other <= allowed | ({"rich.console", "rich.table", "rich.text"} if path.name == "terminal.py" else set())
