"""Lay texts side by side as a fragment of HTML, with the repeats within each marked.

Everything that comes from a text is escaped and sanitized, so that nothing in it can act on the page. Imports only the
standard library, the console's rules and the threshold of a quotation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType

from hypergen.config import LONG_OVERLAP
from hypergen.runtime.console import sanitize_block

NGRAM = 4  # words
MARKED = f"<mark>Marked</mark>: {NGRAM} or more words that the same text has said before."
FRAMED = f"Framed: recites the training set, more than {LONG_OVERLAP} tokens in a row."
WORD = re.compile(r"\S+")


class Html(str):
    """Show itself as a page in a notebook, where a plain string would be quoted."""

    def _repr_html_(self) -> str:
        return str(self)


@dataclass
class TextFigure:
    """Hold a comparison of texts, which is HTML alone; see `modality.Figure`."""

    content: Html
    """The fragment of HTML."""

    def html(self) -> str:
        """Return the fragment."""
        return self.content

    def _repr_html_(self) -> str:
        return self.content

    def save(self, folder: Path) -> list[Path]:
        """Write nothing: the page shows it all."""
        return []


def comparison_table(
    prompts: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    recited: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> Html:
    """Build a table with one row an example, and with a legend where something is marked or framed.

    Args:
        prompts: shown in the first column.
        columns: continuations by title, as many in each as there are prompts.
        recited: by title, the rows (from 0) that get a frame.
    """
    titles = "".join(f"<th>{_escaped(title)}</th>" for title in ("prompt", *columns))
    cells = [[_cell("prompt", _escaped(prompt)) for prompt in prompts]]
    cells += [
        [_cell(title, _marked(text), row in recited.get(title, ())) for row, text in enumerate(texts)]
        for title, texts in columns.items()
    ]
    lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    notes = [MARKED] * ("<mark>" in lines) + [FRAMED] * any(recited.values())
    legend = f"<caption>{'<br>'.join(notes)}</caption>\n" if notes else ""
    head = f"{legend}<thead><tr>{titles}</tr></thead>"
    return Html(f'<table class="compare">\n{head}\n<tbody>\n{lines}\n</tbody>\n</table>\n')


def _cell(title: str, content: str, is_recited: bool = False) -> str:
    """Build a cell that knows its title, which a narrow screen shows above it."""
    kind = ' class="recited"' if is_recited else ""
    return f'<td{kind} data-title="{_escaped(title)}">{content}</td>'


def _escaped(text: str) -> str:
    return escape(sanitize_block(text))


def _marked(text: str) -> str:
    return mark_repeats(sanitize_block(text))


def mark_repeats(text: str) -> str:
    """Escape the text and put <mark> around every 4-gram of words that occurred before in it."""
    words = list(WORD.finditer(text))
    pieces, end = [], 0
    for first, last in _repeated_stretches([word.group() for word in words]):
        begin = words[first].start()
        pieces += [escape(text[end:begin]), "<mark>", escape(text[begin : words[last].end()]), "</mark>"]
        end = words[last].end()
    return "".join([*pieces, escape(text[end:])])


def _repeated_stretches(words: list[str]) -> list[tuple[int, int]]:
    """List first and last word number of each stretch covered by 4-grams that occurred before."""
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
