"""The comparison is safe to open and marks the repeats of a text. Alone: pytest tests/text/test_comparison_table.py"""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from hypergen.text.comparison_table import TextFigure, comparison_table, mark_repeats

PAYLOADS = [
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg/onload=alert(1)>",
    "<mark>not ours</mark>",
    "&lt;script&gt; &#60;b&#62;",
    "\x1b]0;title\x07\x1b[31mred\x9b0m\0\x7f",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "safe\u202etxt.exe\u2066",
    "<!-- <a href='javascript:alert(1)'>",
]


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_text_becomes_markup(payload):
    repeated = " ".join([payload] * 8)
    for prompt, title, text in ((payload, "a", "b"), ("a", payload, "b"), ("a", "b", payload), ("a", "b", repeated)):
        found = _Tags()
        found.feed(comparison_table([prompt], {title: [text]}))
        assert set(found.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "mark"}
        assert {name for name, _ in found.attributes} == {"class", "data-title"}
        assert [value for name, value in found.attributes if name == "class"] == ["compare"]
        assert not any(
            (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2066" for c in found.text
        )


def test_one_row_an_example_one_column_a_title():
    found = _Tags()
    found.feed(comparison_table(["a", "b", "c"], {"before": ["d", "e", "f"], "after": ["g", "h", "i"]}))
    assert (found.tags.count("th"), found.tags.count("tr"), found.tags.count("td")) == (3, 4, 9)
    assert "".join(found.text.split()) == "promptbeforeafteradgbehcfi"


def test_what_a_mark_means_is_said_where_there_is_one():
    legend = "<caption><mark>Marked</mark>: 4 or more words that the same text has said before.</caption>"
    assert legend in comparison_table(["a"], {"b": ["so it goes on so it goes on"]})
    assert "Marked" not in comparison_table(["a"], {"b": ["so it goes on"]})


def test_what_is_recited_is_framed_and_explained():
    table = comparison_table(["a", "b"], {"x": ["c", "d"], "y": ["e", "f"]}, {"y": [1]})
    assert table.count('class="recited"') == 1 and '<td class="recited" data-title="y">f</td>' in table
    assert "Framed: recites the training set, more than 10 tokens in a row." in table
    assert "Framed" not in comparison_table(["a"], {"x": ["c"]}, {"x": []})


def test_a_cell_knows_its_title_for_narrow_screens():
    table = comparison_table(["a"], {'b "c"': ["d"]})
    assert '<td data-title="prompt">a</td><td data-title="b &quot;c&quot;">d</td>' in table


def test_repeats_are_marked_from_the_second_time_on():
    assert mark_repeats("a b c d x a b c d y") == "a b c d x <mark>a b c d</mark> y"
    assert mark_repeats(" a b a b a b a b\n") == " a b <mark>a b a b a b</mark>\n"  # each 4-gram that came before
    assert mark_repeats("no 4 words") == "no 4 words"
    assert mark_repeats("") == ""


def test_emoji_and_right_to_left_text_stay():
    text = "👩\u200d🚀 שלום"
    assert mark_repeats(text) == text and f">{text}</td>" in comparison_table([text], {"a": [text]})


def test_a_figure_is_html_alone(tmp_path):
    figure = TextFigure(comparison_table(["a"], {"b": ["c"]}))
    assert figure.content._repr_html_() == figure._repr_html_() == figure.content  # in a notebook
    assert figure.html() == figure.content and figure.save(tmp_path / "new") == []
    assert not (tmp_path / "new").exists()
