"""Texts side by side as a fragment of HTML, with what each repeats of itself marked. Imports only the standard library.

Everything that comes from a text is escaped; control characters are dropped, so nothing in it can act on the page.
Does not know: tokens, where the texts come from, the page around the fragment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape

NGRAM = 4  # words
LEGEND = f"<caption><mark>Marked</mark>: {NGRAM} or more words that the same text has said before.</caption>\n"
WORD = re.compile(r"\S+")
KEPT_CONTROLS = "\n\t"
DIRECTION_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # could reorder the page


def comparison_table(prompts: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """Prompts, and continuations by column title, equally many in each -> a table, one row an example; with a legend
    where something is marked."""
    titles = "".join(f"<th>{escape(printable(title))}</th>" for title in ("prompt", *columns))
    rows = zip(map(_escaped, prompts), *(map(_marked, texts) for texts in columns.values()), strict=True)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    legend = LEGEND if "<mark>" in lines else ""
    head = f"{legend}<thead><tr>{titles}</tr></thead>"
    return f'<table class="compare">\n{head}\n<tbody>\n{lines}\n</tbody>\n</table>\n'


def _escaped(text: str) -> str:
    return escape(printable(text))


def _marked(text: str) -> str:
    return mark_repeats(printable(text))


def mark_repeats(text: str) -> str:
    """The text, escaped, with <mark> around every 4-gram of words that occurred before in the same text."""
    words = list(WORD.finditer(text))
    pieces, end = [], 0
    for first, last in _repeated_stretches([word.group() for word in words]):
        begin = words[first].start()
        pieces += [escape(text[end:begin]), "<mark>", escape(text[begin : words[last].end()]), "</mark>"]
        end = words[last].end()
    return "".join([*pieces, escape(text[end:])])


def printable(text: str) -> str:
    """The text without control characters, line ends and tabs excepted."""
    return "".join(character for character in text if _is_printable(character))


def _is_printable(character: str) -> bool:
    if character in KEPT_CONTROLS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in DIRECTION_CONTROLS


def _repeated_stretches(words: list[str]) -> list[tuple[int, int]]:
    """First and last word number of each stretch covered by 4-grams that occurred before."""
    seen: set[tuple[str, ...]] = set()
    stretches: list[tuple[int, int]] = []
    for first in range(len(words) - NGRAM + 1):
        ngram, last = tuple(words[first : first + NGRAM]), first + NGRAM - 1
        if ngram not in seen:
            seen.add(ngram)
        elif stretches and first <= stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], last)
        else:
            stretches.append((first, last))
    return stretches
