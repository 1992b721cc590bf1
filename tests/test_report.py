"""Tables, charts and the page on made-up records; no model, no file. Alone: pytest tests/test_report.py"""

import io
import math
import re
import shutil
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from hypergen.report import markdown, page, terminal
from hypergen.report_table import MEASURES, columns_of, head, printable

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>' autofocus onfocus='alert(1)",
    "</title></style></table><h1>out",
    "<!-- ]]> https://example.org/ {title} {0} %s",
    "a\x00b\x1b[31mc\x9bd\u202ee\ud800f\ufffeg",
]
VOID = {"meta", "img"}
TAGS = "html head meta title style body main header footer section h1 h2 div table thead tbody tr th td small b mark "
TAGS += "ul li details summary figure figcaption img svg line polyline circle text"
FRAGMENT = (
    '<table class="compare"><thead><tr><th>base</th></tr></thead><tbody><tr><td>a <mark>b</mark></td></tr></tbody>'
)
FRAGMENT += "</table>"


def record(name, **means):
    return {"name": name, "values": {key: {"mean": value} for key, value in means.items()}}


def png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(width))) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


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
    record("hyperfitted greedy", ttr=math.nan, overlap_mean=5.25, rep_4=0.5),
]
CURVES = {"training loss": [(0, 3.2), (1, 1.5), (2, 0.05)]}


class Reader(HTMLParser):
    """Checks that tags are balanced; collects tags, attributes, style and visible text."""

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


def rows_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


# Tables.


def test_a_table_with_intervals_nan_and_missing_values():
    heads, rule, first, second = rows_of(markdown(RECORDS))
    assert heads[1:] == ["TTR", "overlap mean", "overlap max", "overlap > 10", "rep-4", "held-out loss"]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rule)
    assert first == ["base greedy", "0.233 [0.200, 0.274]", "4.000", "14", "0.000", "-", "3.200"]
    assert second == ["hyperfitted greedy", "-", "5.250", "-", "-", "0.500", "-"]


def test_an_interval_needs_both_ends_and_a_mean():
    values = [{"mean": 1.0, "low": 0.5}, {"mean": 1.0, "low": math.nan, "high": 2.0}, {"low": 0.5, "high": 2.0}, None]
    table = markdown([{"name": "x", "values": dict(zip("abcd", values, strict=True))}])
    assert rows_of(table)[2][1:] == ["1.000", "1.000", "-", "-"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.500"),
        (-0.0001, "0.000"),
        (2000, "2,000"),
        (7, "7"),
        (math.inf, "inf"),
        (12345.6, "12,346"),
        (1e30, "1e+30"),
    ],
)
def test_how_numbers_are_shown(value, shown):
    assert rows_of(markdown([record("x", thing=value)]))[2][1] == shown


def test_a_mean_of_counts_keeps_its_fraction():
    assert rows_of(markdown([record("x", overlap_max=12.5)]))[2][1] == "12.500"


def test_columns_can_be_chosen_and_unknown_names_are_readable():
    table = markdown([record("x", loss=1.0, my_new_measure=2.0)], columns=["my_new_measure", "absent"])
    assert [row[1:] for row in rows_of(table)][::2] == [["my new measure", "absent"], ["2.000", "-"]]
    assert all(head(name) and "_" not in head(name) for name in MEASURES)


def test_overlap_stands_beside_ttr_whatever_was_asked_for():
    assert columns_of(RECORDS, ["loss", "ttr", "rep_4"]) == ["loss", "ttr", "overlap_mean", "rep_4"]
    asked = ["overlap_max", "ttr", "loss", "overlap_mean"]
    assert columns_of(RECORDS, asked) == ["ttr", "overlap_max", "overlap_mean", "loss"]
    assert columns_of(RECORDS, ["loss", "loss"]) == ["loss"]


@pytest.mark.parametrize("show", [markdown, terminal, lambda records: page("t", records, {}, {}, None)])
def test_diversity_without_overlap_is_refused(show):
    for records in ([record("x", ttr=0.5)], [record("x", ttr=0.5, overlap_mean=math.nan), record("y", loss=1.0)]):
        with pytest.raises(ValueError, match="never shown without overlap"):
            show(records)
    show([record("x", ttr=0.5), record("y", overlap_mean=2.0)])
    show([record("x", ttr=math.nan)])


def test_no_records_and_no_values():
    assert len(rows_of(markdown([]))) == 2
    assert rows_of(markdown([record("x")]))[2] == ["x"]


def test_a_name_cannot_break_a_markdown_table():
    table = markdown([record("a|b\n| c [d](e) <i> \x1b[31m\\|", loss=1.0)])
    assert len(table.splitlines()) == 3 and "\x1b" not in table
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", table.splitlines()[2])) == 3
    assert r"\[d\](e) \<i>" in table


# On a terminal.


class Screen(io.StringIO):
    def isatty(self):
        return True


def on_screen(monkeypatch, records, width):
    screen = Screen()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    terminal(records)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())


def test_off_a_terminal_the_table_is_markdown(capsys):
    terminal(RECORDS)
    assert capsys.readouterr().out == markdown(RECORDS)


def test_on_a_terminal_names_stay_what_they_are(monkeypatch):
    shown = on_screen(monkeypatch, [record("[red]x[/] [/bad] \x1b]0;t\x07 \x9b2J", loss=1.0)], 200)
    assert "[red]x[/] [/bad] ]0;t 2J" in shown and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_a_table_too_wide_for_the_terminal_lies_on_its_side(monkeypatch):
    wide = on_screen(monkeypatch, RECORDS, 200)
    narrow = on_screen(monkeypatch, RECORDS, 70)
    assert any("base greedy" in line and "14" in line for line in wide.splitlines())
    assert any("base greedy" in line and "hyperfitted greedy" in line for line in narrow.splitlines())
    tight = on_screen(monkeypatch, RECORDS, 60)
    assert re.search(r"0\.233 .*\n.* \[0\.200, 0\.274\] ", tight) and "base greedy" in tight
    assert "0.233 [0.200, 0.274]" in wide and "0.233 [0.200, 0.274]" in narrow


# The page.


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_text_acts_on_the_page(payload):
    records = [{"name": payload, "values": {payload: {"mean": 1.0, "low": 0.5, "high": 2.0}}}]
    html = page(payload, records, {payload: payload, "seed": 0}, {payload: [(0, 1.0), (1, 0.5)]}, FRAGMENT)
    reader = Reader(html)
    assert set(reader.tags) <= set(TAGS.split())
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "srcset")]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800\ufffe]", html)
    assert "".join(reader.texts).count(printable(payload)) == 8  # each slot shows it
    html.encode("utf-8")


@pytest.mark.parametrize("figure", [FRAGMENT, png(6, 3), None])
def test_the_page_refers_to_nothing_outside(figure):
    html = page("https://a.example", RECORDS, {"base": "http://b.example/x"}, CURVES, figure)
    reader = Reader(html)
    outside = [value for _, value in reader.attributes if value and re.search(r"https?:|//", value.split(",", 1)[0])]
    assert not outside and not re.search(r"url\(|@import|http", "".join(reader.styles))
    assert [
        value for name, value in reader.attributes if name == "src" and not value.startswith("data:image/png")
    ] == []
    assert ("content", "default-src 'none'; img-src data:;") in [(n, v[:34]) for n, v in reader.attributes if v]


def test_the_page_shows_what_it_was_given():
    html = page("My run", RECORDS, {"base": "text-base", "learning rate": 1e-6, "seed": 12345}, CURVES, FRAGMENT)
    text = " ".join(" ".join(Reader(html).texts).split())
    for part in ("My run", "0.233 [0.200, 0.274]", "hyperfitted greedy", "3.200 to 0.050", "1e-06", "12345"):
        assert part in text
    assert FRAGMENT in html


def test_the_footer_explains_the_measures_shown_and_no_others():
    footer = page("t", [record("x", loss=1.0)], {}, {}, None).split("<footer>")[1]
    assert MEASURES["loss"].meaning in footer
    assert MEASURES["ttr"].meaning not in footer and "[low, high]" not in footer
    assert "[low, high]" in page("t", RECORDS, {}, {}, None).split("<footer>")[1]


def test_all_measures_are_folded_below_those_that_fit_a_screen():
    records = [record("base greedy", loss=1.0, rep_2=0.5), record("hyperfitted greedy", loss=2.0, rep_2=0.1)]
    short, whole = page("t", records, {}, {}, None).split("<details>")
    assert "held-out loss" in short and "rep-2" not in short
    assert '<tr><th scope="row">rep-2</th><td>0.500</td><td class="ours">0.100</td></tr>' in whole
    assert '<tr class="ours"><th scope="row">hyperfitted greedy</th><td>2.000</td></tr>' in short
    assert "<details>" not in page("t", [record("x", loss=1.0)], {}, {}, None)


def test_curves_share_their_epochs():
    html = page("t", RECORDS, {}, {"a": [(0, 1.0), (4, 2.0)], "b": [(2, 1.0), (4, 2.0)]}, None)
    first, second = re.findall('points="([0-9.]+),[^"]* ([0-9.]+),', html)
    assert first[1] == second[1] and float(first[0]) < float(second[0])


def test_empty_parts_leave_no_heading():
    html = page("t", RECORDS, {}, {"training loss": [(0, math.nan)]}, None)
    assert "<svg" not in html and "<figure" not in html
    assert re.findall("<h2>(.*?)</h2>", html) == ["Before and after", "What the numbers mean"]


def test_a_png_is_embedded_and_enlarged_by_a_whole_factor():
    assert '<img width="700" height="210" alt=' in page("t", RECORDS, {}, {}, png(100, 30))
    assert '<img width="2000" height="1" alt=' in page(
        "t", RECORDS, {}, {}, png(200, 1)[:16] + struct.pack(">II", 2000, 1)
    )
    with pytest.raises(ValueError, match="no PNG"):
        page("t", RECORDS, {}, {}, b"<svg onload=alert(1)>")


def test_a_falling_curve_falls_and_infinite_points_are_left_out():
    html = page("t", RECORDS, {}, {"loss": [(0, math.inf), (1, 3.0), (2, math.nan), (3, 1.0)]}, None)
    svg = ElementTree.fromstring(re.search("<svg.*?</svg>", html, re.DOTALL).group())
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in svg.find("polyline").get("points").split())
    assert x1 < x2 and y1 < y2
    assert svg.find("title").text == "loss: 3.000 at epoch 1, 1.000 at epoch 3"


# What else must hold.


def test_importing_the_report_loads_neither_models_nor_rich():
    heavy = {"torch", "PIL", "transformers", "numpy", "rich"}
    code = f"import sys, hypergen.report; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_draws_the_page_and_runs_nothing(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    payload = "<img src=x onerror=\"document.title='acted'\">"
    file, picture = tmp_path / "report.html", tmp_path / "report.png"
    file.write_text(page(payload, RECORDS, {payload: payload}, CURVES, png(100, 30)), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    command = [browser, *flags, f"--screenshot={picture}", file.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 10_000
    command = [browser, *flags, "--dump-dom", file.as_uri()]
    document = subprocess.run(command, capture_output=True, timeout=120, check=True, text=True).stdout
    assert "acted'" in document and "<title>acted</title>" not in document
