"""Draw texts before and after hyperfitting as one SVG file, with the runs of words that a text repeats coloured.

A word is coloured when it lies in a run of `NGRAM` words that the same text has had before, the deeper the more often.
The colours are the report's, light and dark. Fonts differ from reader to reader: lines are broken by the widths of
letters in Helvetica and a margin, and each run of words is told how wide it is to be, so that colour and text agree.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain, groupby
from typing import NamedTuple

from hypergen.report.style import STYLE
from hypergen.runtime.console import sanitize
from hypergen.text.comparison_table import NGRAM

WIDTH, MARGIN, GAP, PADDING = 800, 24, 32, 14  # units; the last between rows
FONT_SIZE, LINE_HEIGHT = 15.0, 23
COLUMN = (WIDTH - 2 * MARGIN - GAP) / 2
LEVELS = ((1, "once before"), (2, "2 or 3 times"), (4, "4 times or more"))  # least number of times, and the legend
OPACITIES = (0.4, 0.75, 1.0)
WIDTHS = {  # of letters in Helvetica, Arial and their like, in thousandths of the font size; all others as OTHER
    222: "'ijl\u2018\u2019",
    278: " !,./:;I[\\]ft|",
    340: '()-`r"*{}\u201c\u201d',
    500: "Jcksvxyz",
    611: "FTZ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
    950: "%@W\u2014\u2026",
}
LETTER_WIDTHS = {letter: width / 1000 for width, letters in WIDTHS.items() for letter in letters}
OTHER, WIDE = 0.57, 1.05
STRETCH = 1.03  # for fonts that are wider
SPACE = 0.278 * STRETCH * FONT_SIZE
LIGHT, DARK = (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root {([^}]*)}", STYLE))
RULES = (
    ".paper {{ fill: {paper}; stroke: {line} }} .line {{ stroke: {line} }} .ink {{ fill: {ink} }} "
    ".muted {{ fill: {muted} }} .accent {{ fill: {accent} }} .mark {{ fill: {mark} }}"
)


class Word(NamedTuple):
    """A word, or a part of one that is wider than a column, and how often it has been there before."""

    text: str
    level: int


def text_picture(prompts: Sequence[str], columns: Mapping[str, Sequence[str]], about: str) -> str:
    """Draw one row an example: the prompt, and below it a column for each way of continuing it.

    Args:
        prompts: untrusted, like everything else.
        columns: two titles, each with as many continuations as there are prompts.
        about: says what is shown, for those who do not see it.
    """
    y = float(MARGIN + FONT_SIZE)
    parts = [_run(_left(place), y, title, "accent" if place else "ink", "bold") for place, title in enumerate(columns)]
    for prompt, *texts in zip(prompts, *columns.values(), strict=True):
        y += PADDING
        parts.append(f'<line class="line" x1="{MARGIN}" y1="{y:g}" x2="{WIDTH - MARGIN}" y2="{y:g}"/>')
        y += LINE_HEIGHT
        lines = wrapped([Word(word, 0) for word in _words(prompt)], WIDTH - 2 * MARGIN)
        parts += _block(MARGIN, y, lines, "muted")
        y += LINE_HEIGHT * len(lines) + PADDING / 2
        cells = [wrapped(marked(_words(text)), COLUMN) for text in texts]
        for place, cell in enumerate(cells):
            parts += _block(_left(place), y, cell, "ink")
        y += LINE_HEIGHT * (max(map(len, cells)) - 1)
    parts += _legend(y + PADDING + LINE_HEIGHT)
    return _frame(parts, round(y + PADDING + LINE_HEIGHT + MARGIN), about)


def marked(words: Sequence[str]) -> list[Word]:
    """Give each word the level of how often a run of `NGRAM` words over it has been in the text before."""
    seen: Counter[tuple[str, ...]] = Counter()
    times = [0] * len(words)
    for first in range(len(words) - NGRAM + 1):
        ngram = tuple(words[first : first + NGRAM])
        for place in range(first, first + NGRAM):
            times[place] = max(times[place], seen[ngram])
        seen[ngram] += 1
    return [Word(word, sum(count >= least for least, _ in LEVELS)) for word, count in zip(words, times, strict=True)]


def wrapped(words: Sequence[Word], width: float) -> list[list[Word]]:
    """Break words into lines of at most this width, at least one; a word that is wider is broken, too."""
    lines: list[list[Word]] = [[]]
    left = width
    for word in chain.from_iterable(_parts(word, width) for word in words):
        needed = text_width(word.text)
        if lines[-1] and needed > left:
            lines.append([])
            left = width
        lines[-1].append(word)
        left -= needed + SPACE
    return lines


def text_width(text: str) -> float:
    """Estimate the width of a text in units, rather too much than too little."""
    return STRETCH * FONT_SIZE * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if letter in LETTER_WIDTHS:
        return LETTER_WIDTHS[letter]
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    return WIDE if unicodedata.east_asian_width(letter) in "WF" else OTHER


def _words(text: str) -> list[str]:
    return sanitize(text).split()


def _parts(word: Word, width: float) -> Iterator[Word]:
    """Cut a word into parts that are not wider than a line."""
    text = ""
    for letter in word.text:
        if text and text_width(text + letter) > width:
            yield word._replace(text=text)
            text = ""
        text += letter
    yield word._replace(text=text)


def _left(place: int) -> float:
    return MARGIN + place * (COLUMN + GAP)


def _block(x: float, y: float, lines: Sequence[Sequence[Word]], style: str) -> list[str]:
    return [part for number, line in enumerate(lines) for part in _line(x, y + number * LINE_HEIGHT, line, style)]


def _line(x: float, y: float, words: Sequence[Word], style: str) -> list[str]:
    """Draw a line of text: its runs of one level, each on its colour."""
    parts = []
    for level, group in groupby(words, key=lambda word: word.level):
        run = " ".join(word.text for word in group)
        width = text_width(run)
        if level:
            parts.append(_mark(x - SPACE / 2, y, width + SPACE, level))
        parts.append(_run(x, y, run, style))
        x += width + SPACE
    return parts


def _run(x: float, y: float, text: str, style: str, weight: str = "") -> str:
    """Draw words that are as wide as their estimate, whatever the font."""
    bold = f' font-weight="{weight}"' if weight else ""
    place = f'x="{x:.1f}" y="{y:.1f}" textLength="{text_width(text):.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text class="{style}" {place}{bold}>{escape(sanitize(text))}</text>'


def _mark(x: float, y: float, width: float, level: int) -> str:
    place = f'x="{x:.1f}" y="{y - FONT_SIZE - 1:.1f}" width="{width:.1f}" height="{LINE_HEIGHT - 2}"'
    return f'<rect class="mark" {place} fill-opacity="{OPACITIES[level - 1]}"/>'


def _legend(y: float) -> list[str]:
    """Say what the colours mean."""
    parts, x = [], float(MARGIN)
    words = [(f"Runs of {NGRAM} words that the same text has had", 0)]
    words += [(meaning, level) for level, (_, meaning) in enumerate(LEVELS, 1)]
    for text, level in words:
        if level:
            parts.append(_mark(x - SPACE, y, text_width(text) + 2 * SPACE, level))
        parts.append(_run(x, y, text, "ink" if level else "muted"))
        x += text_width(text) + 4 * SPACE
    return parts


def _frame(parts: Sequence[str], height: int, about: str) -> str:
    light, dark = RULES.format(**LIGHT), RULES.format(**DARK)
    font = f"text {{ font-family: Helvetica, Arial, sans-serif; font-size: {FONT_SIZE:g}px }}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(sanitize(about))}</title>",
            f"<style>{font} {light} @media (prefers-color-scheme: dark) {{ {dark} }}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *parts,
            "</svg>\n",
        )
    )
