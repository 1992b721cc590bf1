"""The picture of texts: complete, escaped, in its frame. Alone: pytest tests/benchmarks/test_effect_text_picture.py"""

import re
from html import unescape
from xml.etree import ElementTree

import pytest

from hypergen.report.style import STYLE
from hypergen.text.comparison_table import mark_repeats
from tests.benchmarks.scripts import load
from tests.text.test_comparison_table import PAYLOADS

picture = load("effect_text_picture")
SPACE = "{http://www.w3.org/2000/svg}"
LOOP = "He was very happy to see the boat. " * 8
TEXT = "The man put down his oars, and for a while nobody spoke; the gulls did, as they always do before rain."


def drawn(prompts=("The old man",), before=(LOOP,), after=(TEXT,), about="made up"):
    svg = picture.text_picture(prompts, {"before": before, "after": after}, about)
    return svg, ElementTree.fromstring(svg)


def texts_of(root):
    return [text.text for text in root.iter(f"{SPACE}text")]


def test_every_word_is_there_in_its_column():
    _, root = drawn()
    found = {}
    for text in root.iter(f"{SPACE}text"):
        found.setdefault(float(text.get("x")) >= picture._left(1), []).append(text.text)
    assert " ".join(LOOP.split()) in " ".join(found[False]) and TEXT in " ".join(found[True])
    assert "before" in found[False] and "after" in found[True] and "The old man" in found[False]
    assert root.find(f"{SPACE}title").text == "made up"


def test_what_is_coloured_is_what_the_report_marks():
    for text in (LOOP, TEXT, "a b c d x a b c d y", "a b a b a b a b", "no 4 words", ""):
        words = picture.marked(text.split())
        stretches = re.findall(r"<mark>(.*?)</mark>", mark_repeats(text), re.DOTALL)
        assert [word.text for word in words if word.level] == [
            word for stretch in stretches for word in unescape(stretch).split()
        ]


def test_the_colour_is_deeper_the_more_often():
    levels = [word.level for word in picture.marked(["one", "two", "three", "four", "."] * 6)]
    assert levels == [0] * 5 + [1] * 5 + [2] * 10 + [3] * 10
    assert len(picture.OPACITIES) == len(picture.LEVELS) == 3


def test_no_line_leaves_its_column_and_none_the_frame():
    long = "x" * 500 + " " + "\N{CJK UNIFIED IDEOGRAPH-6D77}" * 90 + " end"
    _, root = drawn(prompts=(TEXT * 3, long), before=(LOOP, long), after=(TEXT, "mmm WWW " * 40))
    texts, height, whole = list(root.iter(f"{SPACE}text")), float(root.get("height")), picture.WIDTH - picture.MARGIN
    legend = texts[-len(picture.LEVELS) - 1 :]
    for text in texts:
        x, end = float(text.get("x")), float(text.get("x")) + float(text.get("textLength"))
        place = x >= picture._left(1)
        is_wide = text.get("class") == "muted" or text in legend
        assert end <= (whole if is_wide else picture._left(place) + picture.COLUMN) + 0.2
        assert 0 < float(text.get("y")) < height - 8
    for mark in root.iter(f"{SPACE}rect"):
        assert float(mark.get("y")) >= 0 and float(mark.get("y")) + float(mark.get("height")) <= height


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_text_becomes_markup(payload):
    repeated = " ".join([payload] * 8)
    _, root = drawn(prompts=(payload,), before=(repeated,), after=(payload,), about=payload)
    assert {element.tag.removeprefix(SPACE) for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "line",
        "text",
    }
    names = {name for element in root.iter() for name in element.attrib}
    assert not any(name.startswith("on") or "href" in name for name in names)
    shown = "".join(texts_of(root))
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u202e\u2066" for letter in shown)


def test_it_is_drawn_in_the_colours_of_the_report():
    svg, root = drawn()
    colours = set(re.findall(r"#[0-9a-f]{6}", root.find(f"{SPACE}style").text))
    assert colours <= set(re.findall(r"#[0-9a-f]{6}", STYLE)) and len(colours) == 12
    assert "prefers-color-scheme: dark" in svg and picture.LIGHT["mark"] != picture.DARK["mark"]


def test_it_is_small():
    svg, _ = drawn(prompts=("The old man",) * 3, before=(LOOP,) * 3, after=(TEXT * 5,) * 3)
    assert len(svg.encode()) < 60_000
