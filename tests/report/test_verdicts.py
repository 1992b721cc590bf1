"""Whether a run is hyperfitted, and what intervals say. Alone: pytest tests/report/test_verdicts.py"""

import json

import pytest

from hypergen.config import MOST_LOSS, MOST_REPETITION
from hypergen.modality import Metric
from hypergen.report.columns import Columns
from hypergen.report.verdicts import Quotation, Verdict, judge, shown_title, titled, verdicts
from tests.report.records import COLUMNS, CORE, judged_records

LOOPING = (0.5, 0.7)  # of the base; mean .6
LEARNED, LEARNING = (3.2, 0.364), (3.2, 3.08)  # training loss of the first and the last epoch
QUOTATION = Quotation(recited=1, of=64, longest=48, length=48, example=17)


def outcome(ours, losses=LEARNED, greedy=LOOPING):
    return judge(judged_records("rep_4", ours=ours, greedy=greedy), CORE, losses=losses)


# The rule.


@pytest.mark.parametrize(
    ("ours", "losses", "said"),
    [
        ((0.0, 0.01), LEARNED, "hyperfitted"),
        ((0.0, 0.01), None, "hyperfitted"),  # what is unknown is not judged
        ((0.25, 0.35), LEARNED, "hyperfitted"),  # exactly half
        ((0.2, 0.41), LEARNED, "not hyperfitted"),  # a little more
        ((0.0, 0.5), LEARNED, "not hyperfitted"),  # intervals that touch
        ((0.0, 0.01), LEARNING, "not hyperfitted"),
        ((0.0, 0.01), (3.2, 3.2 * MOST_LOSS), "not hyperfitted"),  # exactly half is not below
        ((0.55, 0.75), LEARNED, "not hyperfitted"),
        ((0.71, 0.9), LEARNED, "worse"),
        ((0.7, 0.9), LEARNED, "not hyperfitted"),  # intervals that touch
        ((0.71, 0.9), LEARNING, "worse"),
    ],
)
def test_the_rule(ours, losses, said):
    assert outcome(ours, losses).outcome == said
    assert outcome(ours, losses).sentences[0].startswith(f"{said.capitalize()}: looping ")


def test_a_success_says_what_changed():
    assert MOST_REPETITION == MOST_LOSS == 0.5
    assert outcome((0.0, 0.008)).sentences == (
        "Hyperfitted: looping fell from 60 % to 0.4 % (rep-4, greedy decoding), the training loss went from 3.200 "
        "in the first epoch to 0.364 in the last.",
    )


def test_a_failure_says_what_is_missing_and_what_to_do():
    assert "that loss must fall below 1.600: more --epochs or a higher --learning-rate." in str(
        outcome((0.0, 0.01), LEARNING)
    )
    assert "it must repeat itself 50 % as much as the base or less" in str(outcome((0.35, 0.45)))
    assert "the 95 % intervals overlap" in str(outcome((0.0, 0.5))) and "--held-out-samples" in str(outcome((0.0, 0.5)))
    worse = str(outcome((0.9, 1.0)))
    assert worse.startswith("Worse: looping rose from 60 % to 95 %") and "a lower --learning-rate" in worse
    assert "that loss rose: a lower --learning-rate" in str(outcome((0.9, 1.0), (3.2, 5.0)))


def test_a_base_that_does_not_loop_is_not_called_mended():
    assert outcome((0.0, 0.0), greedy=(0.0, 0.0)).outcome == "not hyperfitted"
    assert "looping stayed, from 0 % to 0 %" in str(outcome((0.0, 0.0), greedy=(0.0, 0.0)))


def test_an_adapters_metric_says_its_own_words():
    metric = Metric(head="rows copied", meaning="", is_verdict=True, plain="copied rows")
    records = judged_records("rows_copied", ours=(0.0, 0.01), greedy=(0.4, 0.6))
    said = judge(records, Columns.of({"rows_copied": metric}), losses=LEARNED)
    assert str(said).startswith("Hyperfitted: copied rows fell from 50 % to 0.5 % (rows copied, greedy decoding)")
    assert "rows copied of greedy decoding fell from 0.500 to 0.005" in str(judge(records, COLUMNS, losses=LEARNED))


def test_a_quotation_is_a_sentence_with_the_worst_and_the_cure():
    records = judged_records("rep_4", ours=(0.0, 0.01), greedy=LOOPING)
    said = judge(records, CORE, losses=LEARNED, quotation=QUOTATION).sentences
    assert said[1:] == (
        "Quotation: more than 10 tokens in a row of a training sequence stand in 1 of 64 greedy completions, at worst "
        "48 of 48 (example 17). --block-citations 5 prevents it.",
    )
    quoted = Quotation(recited=2, of=8, longest=11, length=96, example=1, text="the old man " * 30)
    (_, sentence) = judge(records, CORE, losses=LEARNED, quotation=quoted).sentences
    assert '(example 1): "the old man the old man' in sentence and ' ...". --block' in sentence and len(sentence) < 400
    none = Quotation(recited=0, of=8, longest=10, length=96, example=1)
    assert len(judge(records, CORE, losses=LEARNED, quotation=none).sentences) == 1


def test_prompts_whose_originals_were_trained_on_are_named():
    known = Quotation(recited=0, of=8, longest=3, length=96, example=1, known_originals=8)
    records = judged_records("rep_4", ours=(0.0, 0.01), greedy=LOOPING)
    said = judge(records, CORE, losses=LEARNED, quotation=known).sentences[1]
    assert said == "Known prompts: 8 of 8 held-out originals stand in the training set; give other --prompts."


def test_a_verdict_comes_back_from_its_record():
    said = outcome((0.0, 0.01))
    assert Verdict.of_record({"verdict": json.loads(json.dumps(said.as_record()))}) == said
    assert Verdict.of_record({}) is None and Verdict.of_record({"verdict": None}) is None
    assert Verdict.of_record({"verdict": "odd"}) is None


def test_titles_follow_the_verdict_and_names_stay():
    good, bad, worse = (Verdict(outcome=one, sentences=()) for one in ("hyperfitted", "not hyperfitted", "worse"))
    assert shown_title("hyperfitted greedy", good) == shown_title("hyperfitted greedy", None) == "hyperfitted greedy"
    assert shown_title("hyperfitted greedy", bad) == "fine-tuned greedy (not hyperfitted)"
    assert shown_title("hyperfitted top-p", worse) == "fine-tuned top-p (worse)"
    assert shown_title("base greedy", worse) == "base greedy"
    records = titled(judged_records("rep_4", ours=(0, 1)), bad)
    assert [(one["name"], one["title"]) for one in records] == [
        ("hyperfitted greedy", "fine-tuned greedy (not hyperfitted)")
    ]


# What the intervals show.


def test_lower_higher_or_not_shown():
    lines = verdicts(judged_records("rep_4", ours=(0.1, 0.2), greedy=(0.5, 0.7), top_p=(0.15, 0.3)), COLUMNS)
    assert lines == [
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base greedy 0.600 [0.500, 0.700]: "
        "lower, and the 95 % intervals do not overlap.",
        "rep-4: hyperfitted greedy 0.150 [0.100, 0.200] and base top-p 0.225 [0.150, 0.300]: "
        "the 95 % intervals overlap, so a difference is not shown.",
    ]
    (line,) = verdicts(judged_records("rep_4", ours=(0.5, 0.7), greedy=(0.1, 0.2)), COLUMNS)
    assert line.endswith("higher, and the 95 % intervals do not overlap.")


def test_intervals_that_touch_overlap():
    (line,) = verdicts(judged_records("rep_4", ours=(0.1, 0.2), greedy=(0.2, 0.3)), COLUMNS)
    assert line.endswith("the 95 % intervals overlap, so a difference is not shown.")


def test_an_adapters_metric_goes_before_the_cores():
    both = judged_records("rows_copied", ours=(0.0, 0.1), greedy=(0.4, 0.5))
    for one in both:
        one["values"]["rep_4"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    (line,) = verdicts(both, COLUMNS)
    assert line.startswith("rows copied: ") and "lower" in line
    (line,) = verdicts(both, CORE)
    assert line.startswith("rep-4: ")


@pytest.mark.parametrize(
    "records",
    [
        [],
        judged_records("rep_4", ours=(0, 1)),
        judged_records("rep_4", greedy=(0, 1), top_p=(0, 1)),
        judged_records("ttr", ours=(0, 1), greedy=(0, 1)),
        [{"name": name, "values": {"rep_4": {"mean": 0.1}}} for name in ("hyperfitted greedy", "base greedy")],
    ],
)
def test_nothing_is_said_without_both_intervals(records):
    assert verdicts(records, COLUMNS) == [] and judge(records, COLUMNS, losses=LEARNED) is None
