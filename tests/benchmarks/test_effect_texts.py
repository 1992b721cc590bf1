"""The texts of the records in the page and in the picture. Alone: pytest tests/benchmarks/test_effect_texts.py"""

import json
import re
import sys
from html.parser import HTMLParser

import pytest

from tests.benchmarks.scripts import FOLDER, RECORDS, load

effect_texts = load("effect_texts")
README = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
LARGEST = 300_000  # bytes of the picture
HOSTILE = "one\n\n# two <b>three</b> | `four` [five](six)\n\n<!-- end of the texts -->\n"


def record(case="made-up", seed=0, count=14, **changes):
    """What `effect.py` records of a case, as far as these scripts read it."""
    texts = {
        "prompts": [f"Prompt {number}," for number in range(count)],
        "base greedy": [" and so it went on" * 6] * count,
        "base top-p": [" x"] * count,
        "hyperfitted greedy": [f" the {number} gulls rose." for number in range(count)],
        "original": [" y"] * count,
    }
    return {"case": case, "seed": seed, "completions": texts | changes}


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "effect-old.json").write_text(json.dumps([{"case": "old", "seed": 0}]))
    return folder


def write(records, *rows):
    (records / f"effect-{rows[0]['case']}.json").write_text(json.dumps(rows))


class Blocks(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.rows = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.rows.append(data)


def test_the_page_has_the_texts_of_the_committed_records():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert effect_texts.fill(page, effect_texts.section(RECORDS)) == page


def test_the_picture_is_drawn_from_its_record_and_shown_in_the_readme():
    if not effect_texts.PICTURE.exists():
        pytest.skip("no record has texts yet")
    svg = effect_texts.PICTURE.read_text(encoding="utf-8")
    assert svg == effect_texts.picture(RECORDS, *effect_texts.drawn_from(svg))
    assert len(svg.encode()) < LARGEST
    assert re.search(r"!\[[^\]]{40,}\]\(benchmarks/effect-text\.svg\)", README)


def test_twelve_texts_of_the_first_seed_stand_before_and_after(records):
    write(records, record(seed=4), record(seed=5, **{"hyperfitted greedy": [" other"] * 14}))
    found = Blocks()
    found.feed(effect_texts.section(records))
    assert found.tags.count("details") == 1 and found.tags.count("tr") == 13
    shown = "".join(found.rows)
    assert "made-up, seed 4: the first 12 prompts" in shown and "other" not in shown
    assert "the 11 gulls rose." in shown and "the 12 gulls rose." not in shown
    assert "before: base, greedy" in shown and "after: hyperfitted, greedy" in shown


def test_every_record_with_texts_has_its_block_and_none_says_so(records):
    assert effect_texts.section(records) == effect_texts.NONE
    for case in ("b", "a"):
        write(records, record(case))
    assert re.findall(r"<summary>(\w)", effect_texts.section(records)) == ["a", "b"]


def test_a_hostile_text_stays_in_its_cell(records):
    hostile = [HOSTILE] * 14
    write(records, record(**{"prompts": hostile, "base greedy": hostile, "hyperfitted greedy": hostile}))
    section = effect_texts.section(records)
    assert "\n\n" not in section and "<!--" not in section and "<b>" not in section
    page = f"a\n{effect_texts.BEGIN}old{effect_texts.END}b\n"
    filled = effect_texts.fill(page, section)
    assert effect_texts.fill(filled, section) == filled and filled.startswith("a\n") and filled.endswith("b\n")


@pytest.mark.parametrize(
    "page", ["", effect_texts.BEGIN, effect_texts.END, 2 * (effect_texts.BEGIN + effect_texts.END)]
)
def test_a_page_without_its_marks_is_refused(page):
    with pytest.raises(ValueError):
        effect_texts.fill(page, "x")


def test_a_picture_says_what_it_was_drawn_from(records):
    write(records, record(seed=0), record(seed=3))
    svg = effect_texts.picture(records, "made-up", 3, 2)
    assert effect_texts.drawn_from(svg) == ("made-up", 3, 2)
    assert "Prompt 1," in svg and "Prompt 2," not in svg and "gulls" in svg
    assert effect_texts.drawn_from(effect_texts.picture(records, "made-up", 0, 99)) == ("made-up", 0, 14)
    with pytest.raises(ValueError, match="does not say"):
        effect_texts.drawn_from("<svg></svg>")


@pytest.mark.parametrize(("case", "seed"), [("none", 0), ("old", 0), ("made-up", 9)])
def test_a_record_that_is_not_there_is_named(records, case, seed):
    write(records, record())
    with pytest.raises(SystemExit, match=f"--picture {case} --seed {seed}: no record with texts"):
        effect_texts.picture(records, case, seed, 3)


def test_the_script_fills_page_and_picture(records, tmp_path, monkeypatch):
    write(records, record())
    page, picture = tmp_path / "README.md", tmp_path / "effect-text.svg"
    page.write_text(f"a\n{effect_texts.BEGIN}{effect_texts.END}b\n")
    monkeypatch.setattr(effect_texts, "PAGE", page)
    monkeypatch.setattr(effect_texts, "PICTURE", picture)
    monkeypatch.setattr(sys, "argv", ["effect_texts.py", "--records", str(records)])
    effect_texts.main()
    assert "Prompt 11," in page.read_text() and not picture.exists()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--picture", "made-up"])
    effect_texts.main()
    assert picture.read_text().startswith("<svg") and "Prompt 2," in picture.read_text()
