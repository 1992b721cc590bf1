"""The page: what it shows, and that nothing in it acts. No model. Alone: pytest tests/report/test_page.py"""

import math
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from hypergen.report.columns import DIVERSITY_METRICS, PREDICTION_METRICS
from hypergen.report.page import Head, curves, interpolation_curves, page
from hypergen.report.trade_off import way_of
from hypergen.report.verdicts import Verdict, titled
from hypergen.runtime.console import sanitize
from tests.report.records import COLUMNS, CORE, CURVES, FRAGMENT, RECORDS, Reader, judged_records, record

PICTURE = '<img width="700" height="210" alt="Completions side by side" src="data:image/png;base64,iVBORw0KGgo=">'
PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>' autofocus onfocus='alert(1)",
    "</title></style></table><h1>out",
    "<!-- ]]> https://example.org/ {title} {0} %s",
    "a\x00b\x1b[31mc\x9bd\u202ee\ud800f\ufffeg",
]
TAGS = "html head meta title style body main header footer section h1 h2 div table thead tbody tr th td small b mark "
TAGS += "ul li details summary figure figcaption img svg line polyline circle text abbr p br dl dt dd pre rect"


def show(title, records, facts=(), curves=(), figure=None, columns=CORE):
    return page(title, records, columns, facts=dict(facts), curves=dict(curves), figure=figure)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_text_acts_on_the_page(payload):
    records = [{"name": payload, "values": {payload: {"mean": 1.0, "low": 0.5, "high": 2.0}}}]
    html = show(payload, records, {payload: payload, "seed": 0}, {payload: [(0, 1.0), (1, 0.5)]}, FRAGMENT)
    reader = Reader(html)
    assert set(reader.tags) <= set(TAGS.split())
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "srcset")]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800\ufffe]", html)
    assert "".join(reader.texts).count(sanitize(payload)) == 8  # each slot shows it
    html.encode("utf-8")


@pytest.mark.parametrize("figure", [FRAGMENT, PICTURE, None])
def test_the_page_refers_to_nothing_outside(figure):
    html = show("https://a.example", RECORDS, {"base": "http://b.example/x"}, CURVES, figure)
    reader = Reader(html)
    outside = [value for _, value in reader.attributes if value and re.search(r"https?:|//", value.split(",", 1)[0])]
    assert not outside and not re.search(r"url\(|@import|http", "".join(reader.styles))
    assert [
        value for name, value in reader.attributes if name == "src" and not value.startswith("data:image/png")
    ] == []
    assert ("content", "default-src 'none'; img-src data:;") in [(n, v[:34]) for n, v in reader.attributes if v]


def test_the_page_shows_what_it_was_given():
    html = show("My run", RECORDS, {"base": "text-base", "learning rate": 1e-6, "seed": 12345}, CURVES, FRAGMENT)
    text = " ".join(" ".join(Reader(html).texts).split())
    for part in ("My run", "0.233 [0.200, 0.274]", "hyperfitted greedy", "3.200 to 0.050", "1e-06", "12345"):
        assert part in text
    assert FRAGMENT in html


def test_the_footer_explains_the_measures_shown_and_no_others():
    footer = show("t", [record("x", loss=1.0)]).split("<footer>")[1]
    assert PREDICTION_METRICS["loss"].meaning in footer
    assert DIVERSITY_METRICS["ttr"].meaning not in footer and "[low, high]" not in footer
    assert "[low, high]" in show("t", RECORDS).split("<footer>")[1]


def test_all_measures_are_folded_below_those_that_fit_a_screen():
    records = [record("base greedy", loss=1.0, rep_2=0.5), record("hyperfitted greedy", loss=2.0, rep_2=0.1)]
    short, whole = show("t", records).split("<details>")
    assert "held-out loss" in short and "rep-2" not in short
    assert re.search(
        '<tr><th scope="row"><abbr title="[^"]+">rep-2</abbr> <small>lower is better</small></th>'
        '<td>0.500</td><td class="ours">0.100</td></tr>',
        whole,
    )
    assert '<tr class="ours"><th scope="row">hyperfitted greedy</th><td>2.000</td></tr>' in short
    assert "<details>" not in show("t", [record("x", loss=1.0)])


def test_curves_share_their_epochs():
    html = show("t", RECORDS, curves={"a": [(0, 1.0), (4, 2.0)], "b": [(2, 1.0), (4, 2.0)]})
    first, second = re.findall('points="([0-9.]+),[^"]* ([0-9.]+),', html)
    assert first[1] == second[1] and float(first[0]) < float(second[0])


def test_empty_parts_leave_no_heading():
    html = show("t", RECORDS, curves={"training loss": [(0, math.nan)]})
    assert "<svg" not in html and "<figure" not in html
    assert re.findall("<h2>(.*?)</h2>", html) == ["Before and after", "What the numbers mean"]


def test_a_figure_is_shown_as_it_is():
    for figure in (FRAGMENT, PICTURE):
        html = show("t", RECORDS, figure=figure)
        assert f'aria-label="Side by side" tabindex="0">\n{figure}\n</div>' in html
    assert "Side by side" not in show("t", RECORDS)


def test_a_falling_curve_falls_and_infinite_points_are_left_out():
    html = show("t", RECORDS, curves={"loss": [(0, math.inf), (1, 3.0), (2, math.nan), (3, 1.0)]})
    svg = ElementTree.fromstring(re.search("<svg.*?</svg>", html, re.DOTALL).group())
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in svg.find("polyline").get("points").split())
    assert x1 < x2 and y1 < y2
    assert svg.find("title").text == "loss: 3.000 at epoch 1, 1.000 at epoch 3"


def test_the_verdict_stands_above_the_table():
    both = judged_records("rows_copied", ours=(0.0, 0.1), greedy=(0.4, 0.5))
    html = show("a", both, columns=COLUMNS)
    assert "<li>rows copied: hyperfitted greedy 0.050 [0.000, 0.100] and base greedy" in html
    assert html.index("rows copied: ") < html.index("<table")


FAILED = Verdict(outcome="not hyperfitted", sentences=("Not hyperfitted: <why>.", "Quotation: <what>."))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_head_answers_what_was_done_and_whether_it_worked(payload):
    said = Verdict(outcome="worse", sentences=(payload, "second"))
    head = Head(facts={"model": payload, payload: "2026-11-27"}, command=f"hypergen fit {payload}", verdict=said)
    html = page("t", RECORDS, CORE, facts={}, curves={}, figure=None, head=head)
    reader = Reader(html.replace("<br>", ""))
    assert set(reader.tags) <= set(TAGS.split())
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "srcset")]
    assert "".join(reader.texts).count(sanitize(payload)) == 4
    assert html.index("Hyperfitting trains") < html.index('<p class="verdict worse">') < html.index("<table")
    assert html.index('<pre class="command">hypergen fit ') < html.index("<h2>")


def test_a_row_is_titled_by_the_verdict():
    html = page("t", titled(RECORDS, FAILED), CORE, facts={}, curves={}, figure=None, head=Head(verdict=FAILED))
    assert '<tr class="ours"><th scope="row">fine-tuned greedy (not hyperfitted)</th>' in html
    assert "hyperfitted greedy" not in html and '<p class="verdict not-hyperfitted">Not hyperfitted: &lt;why' in html


def test_heads_explain_themselves_and_the_verdicts_columns_come_first():
    rows = [record(name, loss=3.0, ttr=0.5, overlap_mean=4.0, rep_4=0.5) for name in ("base greedy", "original")]
    html = show("t", rows)
    table = html.split("</thead>")[0]
    heads = re.findall(r'<abbr title="([^"]+)">([^<]+)</abbr>(?: <small>(\w+) is better</small>)?', table)
    assert [head for _, head, _ in heads][:3] == ["rep-4", "TTR", "overlap mean"]
    assert [way for _, _, way in heads][:3] == ["lower", "higher", "lower"]
    assert all(meaning in html.split("<footer>")[1] for meaning, _, _ in heads)  # the glossary at the end


def test_the_trade_off_shows_rows_as_marks_and_epochs_as_dots():
    rows = [
        record(name, ttr=ttr, overlap_mean=5.0) for name, ttr in (("base greedy", 0.2), ("hyperfitted greedy", 0.7))
    ]
    log = [{"epoch": 0, "ttr": 0.2, "overlap_mean": 4.0}, {"epoch": 1, "loss": 3.0}]
    log += [{"epoch": 4, "ttr": 0.6, "overlap_mean": 5.0}, {"epoch": 8, "ttr": math.nan, "overlap_mean": 5.0}]
    html = page("t", rows, CORE, facts={}, curves={}, figure=None, way=way_of(log))
    section = html.split("<h2>Diversity against quotation</h2>")[1].split("</section>")[0]
    assert section.count('<rect class="mark') == 2 and section.count("<circle") == 2
    assert "<li>B hyperfitted greedy: TTR 0.700, overlap 5.00</li>" in section and "epoch 4" in section
    assert "Diversity against quotation" not in show("t", rows[:1])
    assert "dots: epochs" not in show("t", rows)


def test_curves_are_those_that_were_logged():
    log = [{"epoch": 0, "ttr": 0.2}, {"epoch": 1, "loss": 3.0, "ttr": 0.4}, {"epoch": 2, "loss": 2.0, "accuracy": 0.5}]
    assert curves(log) == {
        "training loss": [(1, 3.0), (2, 2.0)],
        "training token accuracy": [(2, 0.5)],
        "TTR": [(0, 0.2), (1, 0.4)],
    }
    assert curves([]) == {}


# In a browser.


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_draws_the_page_and_runs_nothing(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    payload = "<img src=x onerror=\"document.title='acted'\">"
    file, picture = tmp_path / "report.html", tmp_path / "report.png"
    file.write_text(show(payload, RECORDS, {payload: payload}, CURVES, PICTURE), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    command = [browser, *flags, f"--screenshot={picture}", file.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 10_000
    command = [browser, *flags, "--dump-dom", file.as_uri()]
    document = subprocess.run(command, capture_output=True, timeout=120, check=True, text=True).stdout
    assert "acted'" in document and "<title>acted</title>" not in document


WAY = {0.0: "base greedy", 0.5: "interpolated 0.5 greedy", 1.0: "hyperfitted greedy"}


def test_curves_between_a_base_and_its_run():
    rows = [
        record(name, loss=4 + alpha, ttr=alpha / 2, overlap_mean=5.0, rep_4=1 - alpha) for alpha, name in WAY.items()
    ]
    found = interpolation_curves([*rows, record("original", ttr=0.8, overlap_mean=3.0)], CORE, WAY)
    assert list(found) == ["held-out loss", "rep-4", "TTR", "overlap mean"]
    assert found["held-out loss"] == [(0.0, 4.0), (0.5, 4.5), (1.0, 5.0)]
    html = page("x", rows, CORE, facts={}, curves=found, figure=None, curves_title="<Between>", curves_over="alpha")
    assert "&lt;Between&gt;" in html and "TTR: 0.000 at alpha 0, 0.500 at alpha 1" in html and ">alpha</text>" in html
    assert interpolation_curves(rows[:1], CORE, WAY)["TTR"] == [(0.0, 0.0)]
    assert interpolation_curves([], CORE, WAY) == {}
