"""The model card: what it says, and that nothing leaves its place. Alone: pytest tests/report/test_model_card.py"""

import re

import pytest

from hypergen.report.model_card import CardFacts, model_card
from hypergen.report.verdicts import Verdict
from tests.report.records import CORE, record

huggingface_hub = pytest.importorskip("huggingface_hub")

PAYLOADS = [
    '"\n---\nlicense: mit\n',
    "a: b\n- c\r\n...",
    "`` ` <script>alert(1)</script> | x |\n\n# head",
    "[a](javascript:alert(1)) ![b](https://a.example) www.example.org",
    "\\` \\| \\",
    "&a *a !!python/object {x: [y]} # z",
    "a\x00b\x1b[31mc\x9bd\u202ee\ud800f\ufffeg\u2028h\x85i",
    "\N{WAVING HAND SIGN} é",
    "",
]
ROWS = [
    record("base greedy", ttr=0.2, overlap_mean=4.0, overlap_max=6, rep_4=0.6, loss=3.9),
    record("hyperfitted greedy", ttr=0.7, overlap_mean=5.5, overlap_max=11, rep_4=0.01, loss=7.6),
]


def card(**changes):
    facts = {
        "name": "text-1",
        "recipe": {"base": "a/b", "learning rate": 2e-4, "epochs": 8, "seed": 0},
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "loading": "print('loaded')\n",
        "base": "a/b",
        "base_card": {"base_model": "a/b", "license": "apache-2.0"},
        "datasets": ["c/d"],
        "training_loss": 0.05,
        "records": ROWS,
        "columns": CORE,
        "compared": "64 prompts of 32 tokens, 96 new tokens each",
    }
    return model_card(CardFacts(**facts | changes))


def test_the_hub_reads_the_head():
    read = huggingface_hub.ModelCard(card())
    assert read.data.to_dict() == {
        "base_model": "a/b",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "datasets": ["c/d"],
        "tags": ["hyperfitting"],
    }
    assert read.text.lstrip().startswith("# `text-1`\n")
    again = huggingface_hub.ModelCard.from_template(read.data, template_str="---\n{{ card_data }}\n---\n")
    assert again.data.to_dict() == read.data.to_dict()


def test_what_is_not_known_is_left_out():
    read = huggingface_hub.ModelCard(card(base_card={}, datasets=(), pipeline_tag=None))
    assert read.data.to_dict() == {"library_name": "transformers", "tags": ["hyperfitting"]}


def test_the_parts_stand_in_order():
    text = card()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == ["Recipe", "Before and after", "How to load it", "Limits", "Citation"]
    assert "| learning rate | `0.0002` |" in text and "training loss of 0.050 nats" in text
    assert "```python\nprint('loaded')\n```" in text and "2412.04318" in text


def test_overlap_stands_beside_diversity():
    heads = [line for line in card().splitlines() if "TTR" in line and line.startswith("|")]
    assert re.search(r"TTR +\| +overlap mean +\| +overlap max", heads[0])
    with pytest.raises(ValueError, match="diversity is never shown without overlap"):
        card(records=[record("hyperfitted greedy", ttr=0.7)])


def test_the_limits_are_the_measured_ones():
    text = card()
    assert "runs of 5.500 tokens with it on average, the longest is 11" in text
    assert "its loss is 7.600 nats per token, that of its base 3.900" in text
    without = card(records=[record("hyperfitted greedy", overlap_mean=5.5, overlap_max=11)])
    assert "the longest is 11" in without and "nats per token, that of its base" not in without


def test_a_base_has_no_table_and_no_limits_of_a_run():
    text = card(base=None, base_card={}, records=(), compared="")
    assert "A base to be hyperfitted" in text and "## Before" not in text and "## Limits" not in text


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_leaves_the_head(payload):
    known = {key: payload for key in ("base_model", "license", "license_name", "license_link")}
    text = card(base_card=known, datasets=[payload, payload], library_name=payload or "x", pipeline_tag=payload)
    read = huggingface_hub.ModelCard(text).data.to_dict()
    allowed = {*known, "library_name", "pipeline_tag", "datasets", "tags"}
    assert read.keys() <= allowed and read["tags"] == ["hyperfitting"]
    assert all(isinstance(value, str) and "\n" not in value for value in (read["library_name"], *read["datasets"]))
    text.encode("utf-8")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_leaves_its_place_in_the_body(payload):
    plain, text = card(), card(name=payload, base=payload, compared=payload, recipe={payload: payload, "seed": 0})
    assert re.findall(r"^#+ \w+.*$", plain, re.MULTILINE) == re.findall(r"^#+ \w+.*$", text, re.MULTILINE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800\ufffe]", text)
    assert huggingface_hub.ModelCard(text).data.to_dict() == huggingface_hub.ModelCard(plain).data.to_dict()
    rows = re.search(r"\|---\|---\|\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()
    assert len(rows) == 2 and [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows] == [3, 3]
    shown = re.search(r"^# (.*)$", text, re.MULTILINE)[1]
    assert re.fullmatch(r"`[^`]+`", shown)
    bare = re.sub(r"\\.|`[^`\n]*`", "", text.split("## How to load")[0].split("\n---\n", 1)[1])
    assert not set("<`") & set(bare)


def test_a_card_does_not_call_hyperfitted_what_is_not():
    failed = Verdict(outcome="not hyperfitted", sentences=("Not hyperfitted: the loss is <3>.",))
    text = card(verdict=failed)
    assert "*hyperfitted*" not in text and "in order to be hyperfitted" in text and "without success" in text
    assert "| fine-tuned greedy (not hyperfitted) |" in text and "- Not hyperfitted: the loss is \\<3>." in text
    good = card(verdict=Verdict(outcome="hyperfitted", sentences=("Hyperfitted: yes.",)))
    assert "*hyperfitted*" in good and "- Hyperfitted: yes." in good and "| hyperfitted greedy |" in good
