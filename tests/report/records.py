"""Made-up records and metrics, and a reader that checks HTML: shared by the tests of the report."""

from html.parser import HTMLParser

from hypergen.modality import Metric
from hypergen.report.columns import Columns

OWN_METRICS = {
    "self_bleu": Metric(head="self-BLEU", meaning="likeness of texts", decimals=1, is_diversity=True),
    "rows_copied": Metric(head="rows copied", meaning="share of copied rows", is_verdict=True),
    "run_longest": Metric(head="longest run", meaning="equal in a row", is_count=True, decimals=1, is_detail=True),
}
CORE, COLUMNS = Columns.of(), Columns.of(OWN_METRICS)
FRAGMENT = (
    '<table class="compare"><thead><tr><th>base</th></tr></thead><tbody><tr><td>a <mark>b</mark></td></tr></tbody>'
    "</table>"
)
CURVES = {"training loss": [(0, 3.2), (1, 1.5), (2, 0.05)]}
VOID = {"meta", "img"}


def record(name, **means):
    return {"name": name, "values": {key: {"mean": value} for key, value in means.items()}}


RECORDS = [
    {
        "name": "base greedy",
        "values": {
            "loss": {"mean": 3.2},
            "ttr": {"mean": 0.2333, "low": 0.2, "high": 0.274},
            "overlap_mean": {"mean": 4.0},
            "overlap_max": {"mean": 14.0},
            "overlap_over_10": {"mean": 0.0},
        },
    },
    record("hyperfitted greedy", ttr=float("nan"), overlap_mean=5.25, rep_4=0.5),
]


def judged_records(metric, **intervals):
    """Records of rows that a verdict compares: `ours`, `greedy`, `top_p`, each with its interval."""
    names = {"ours": "hyperfitted greedy", "greedy": "base greedy", "top_p": "base top-p"}
    return [
        {"name": names[key], "values": {metric: {"mean": (low + high) / 2, "low": low, "high": high}}}
        for key, (low, high) in intervals.items()
    ]


def rows_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


class Reader(HTMLParser):
    """Check that tags are balanced; collect tags, attributes, style and visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.styles = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, comment):
        raise AssertionError(comment)

    def handle_data(self, text):
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(text)
