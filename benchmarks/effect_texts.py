"""Show the texts behind the numbers, as the records of `effect.py` have them, chosen by nobody.

    python benchmarks/effect_texts.py                                  # into benchmarks/README.md
    python benchmarks/effect_texts.py --picture smollm2-135m --rows 3  # and draws benchmarks/effect-text.svg

A record that has texts holds them under `completions`: {"prompts": [...], "base greedy": [...], ...}, for the first
prompts of the case. Texts of a model are untrusted: they are escaped, and cannot leave their place in the page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from effect_text_picture import text_picture

from hypergen.report.verdicts import BASE_GREEDY, OURS
from hypergen.runtime.console import sanitize
from hypergen.text.comparison_table import comparison_table

FOLDER = Path(__file__).parent
PICTURE, PAGE = FOLDER / "effect-text.svg", FOLDER / "README.md"
BEGIN, END = "<!-- texts of the records -->\n", "<!-- end of the texts -->\n"
SHOWN = {BASE_GREEDY: "before: base, greedy", OURS: "after: hyperfitted, greedy"}
NUM_TEXTS = 12  # that the page shows
ROWS = 3  # of the picture
NONE = "*No committed record has texts yet.*\n"
Completions = Mapping[str, list[str]]


def main() -> None:
    """Write the texts into the page and, where asked for, the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", metavar="CASE", help="draw the first texts of this case")
    parser.add_argument("--seed", type=int, default=0, help="of the record that is drawn")
    parser.add_argument("--rows", type=int, default=ROWS, help="prompts in the picture")
    parser.add_argument("--records", type=Path, default=FOLDER / "records")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        PICTURE.write_text(picture(arguments.records, arguments.picture, arguments.seed, arguments.rows), "utf-8")
    PAGE.write_text(fill(PAGE.read_text("utf-8"), section(arguments.records)), "utf-8")


def picture(records: Path, case: str, seed: int, rows: int) -> str:
    """Draw the first texts of one record.

    Raises:
        SystemExit: there is no such record, or it has no texts.
    """
    found = {one["seed"]: one["completions"] for one in _with_texts(records / f"effect-{case}.json")}
    if seed not in found:
        raise SystemExit(f"--picture {case} --seed {seed}: no record with texts; there are seeds {sorted(found)}")
    texts: Completions = found[seed]
    columns = {title: texts[name][:rows] for name, title in SHOWN.items()}
    shown = min(rows, len(texts["prompts"]))
    return text_picture(texts["prompts"][:rows], columns, about_picture(case, seed, shown))


def about_picture(case: str, seed: int, rows: int) -> str:
    """Say which record a picture shows, in a form that `drawn_from` reads."""
    return f"{case}, seed {seed}, the first {rows} prompts: greedy completions before and after hyperfitting"


def drawn_from(svg: str) -> tuple[str, int, int]:
    """Read case, seed and number of prompts off a picture.

    Raises:
        ValueError: it does not say.
    """
    found = re.search(r"<title>([\w.-]+), seed (\d+), the first (\d+) prompts:", svg)
    if found is None:
        raise ValueError("the picture does not say which record it shows")
    return found[1], int(found[2]), int(found[3])


def section(records: Path) -> str:
    """Render the texts of every record that has some, its first seed, a folded table each."""
    parts = []
    for path in sorted(records.glob("effect-*.json")):
        parts += [_folded(one) for one in _with_texts(path)[:1]]
    return "\n".join(parts) or NONE


def fill(page: str, texts: str) -> str:
    """Replace what stands between the two marks of the page.

    Raises:
        ValueError: the page has not one of each.
    """
    (before, rest), mark = page.split(BEGIN), BEGIN
    _, after = rest.split(END)
    return f"{before}{mark}{texts}{END}{after}"


def _with_texts(path: Path) -> list[dict[str, Any]]:
    """Read the records of a case that have texts, in their order."""
    return [one for one in json.loads(path.read_text()) if one.get("completions")] if path.is_file() else []


def _folded(record: Mapping[str, Any]) -> str:
    """Render one block of HTML without an empty line, at which Markdown would begin again."""
    texts = {name: [sanitize(text) for text in rows[:NUM_TEXTS]] for name, rows in record["completions"].items()}
    table = comparison_table(texts["prompts"], {title: texts[name] for name, title in SHOWN.items()})
    about = f"{record['case']}, seed {record['seed']}: the first {len(texts['prompts'])} prompts"
    return f"<details>\n<summary>{escape(sanitize(about))}</summary>\n{table}</details>\n"


if __name__ == "__main__":
    main()
