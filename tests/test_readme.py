"""The pages tell the truth: every command parses, what is quick is run as printed, every link leads somewhere.

Alone: pytest tests/test_readme.py
"""

import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest

import hypergen
from hypergen import registry
from hypergen.cli.commands import parse
from hypergen.cli.main import main
from hypergen.image.pixels import from_unit, to_pictures
from hypergen.report.columns import Columns
from hypergen.report.table import cells
from tests.image.tiny import pictures

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((PROJECT / "docs").glob("*.md"))
README = (PROJECT / "README.md").read_text(encoding="utf-8")
QUICK = ("hypergen generate runs/text-1", "hypergen evaluate runs/text-1")  # within a minute, on a run that is there
NOT_OURS = ("accelerate", "pip", "pytest", "git", "ruff", "mypy", "python3", "bash", "diff", "cd")


def commands_of(page):
    """Every shell command of a page: in `sh` blocks, in indented lines, and between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if language == "sh" for line in block.splitlines()]
    lines += re.findall(r"^    ((?:python|hypergen|torchrun|accelerate) .*)$", prose, re.MULTILINE)
    lines += re.findall(r"`((?:python|hypergen|torchrun|accelerate) [^`]+)`", prose.replace("\n", " "))
    parts = [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]
    return [part for part in parts if part]


def arguments_of(command):
    """What hypergen gets of a command; None where it is another program."""
    words = [word for word in shlex.split(command) if word != "..."]
    if words[0] == "hypergen":
        return words[1:]
    if words[0] in ("torchrun", "accelerate") and "hypergen" in words:
        return words[words.index("hypergen") + 1 :]
    return None


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
OURS = [command for command in COMMANDS if arguments_of(command)]


def test_there_are_commands():
    assert len(OURS) >= 8 and {"fit", "generate", "evaluate", "pretrain"} <= {arguments_of(one)[0] for one in OURS}


@pytest.mark.parametrize("command", OURS)
def test_every_command_parses(command):
    words = ["3" if word in ("N", "X", "K") else word for word in arguments_of(command)]
    if "--help" in words:
        return
    if words == ["pretrain"]:
        words += ["--data", "d", "--output", "o", "--modality", "text"]
    parse(words)


@pytest.mark.parametrize("command", [one for one in COMMANDS if not arguments_of(one)])
def test_every_other_program_is_known(command):
    words = shlex.split(command.removeprefix(".venv/bin/"))
    if words[0] == "python":
        place = words[words.index("-m") + 1].replace(".", "/") + ".py" if "-m" in words else words[1]
        assert (PROJECT / place).is_file()
    else:
        assert words[0] in NOT_OURS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def anchors_of(page):
    """What a link behind # may name: a heading in lower case, without marks, spaces as hyphens."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_a_page_leads_to_a_heading(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [(name, head) for name, head in links if head not in anchors_of(page.parent / name if name else page)]
    assert missing == []


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles(page):
    for block in python_blocks(page):
        compile(block, page.name, "exec")


def test_the_readme_lists_every_page_of_the_docs():
    pages = {path.name for path in (PROJECT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert pages == set(re.findall(r"\]\(docs/([^)]+)\)", README))


def test_the_modality_of_the_docs_is_checked_registered_and_fitted(offline, monkeypatch):
    """Both blocks, one after the other; the registry is afterwards what it was."""
    monkeypatch.setattr(registry, "modalities", lambda known=dict(registry.OWN): known)
    checks, registration = python_blocks(PROJECT / "docs" / "your-own-modality.md")
    names = {}
    exec(checks, names)
    exec(registration, names)
    assert names["run"].record["modality"] == "toy" and len(names["run"].records) == 4


SMOL = json.loads((PROJECT / "benchmarks/records/effect-smollm2-135m-fiction.json").read_text(encoding="utf-8"))[0]


def test_the_text_at_the_top_is_of_the_record():
    quoted = " ".join(line.removeprefix(">").strip() for line in README.splitlines() if line.startswith(">"))
    parts = dict(re.findall(r"\*\*(\w+)\*\* (.*?)(?: \.\.\.)? *(?=\*\*|$)", quoted))
    columns = {"prompt": "prompts", "before": "base greedy", "after": "hyperfitted greedy"}
    assert parts.keys() == columns.keys()
    for part, column in columns.items():
        assert " ".join(SMOL["completions"][column][0].split()).startswith(parts[part]), part


def rows_of(page, head):
    """The cells of the table whose first head this is, by head; the table ends at the first other line."""
    table = re.search(rf"^\| {head} \|.*?(?=^(?!\|))", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    heads, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(heads, row, strict=True)) for row in rows]


READING = PROJECT / "docs" / "reading-the-table.md"


@pytest.fixture(scope="module")
def columns():
    return Columns.of(*(registry.adapter(name).METRICS for name in ("text", "image")))


def test_the_table_that_is_explained_is_of_the_record(columns):
    heads, *expected = cells(SMOL["domains"]["fiction"]["rows"], columns)
    rows = rows_of(READING, "row")
    assert len(rows) == len(expected) and len(rows[0]) == 9
    for row, numbers in zip(rows, expected, strict=True):
        assert row.items() <= dict(zip(["row", *heads[1:]], numbers, strict=True)).items()


def test_the_glossary_says_which_way_each_column_is_better(columns):
    known = {metric.head: metric.better for metric in columns.metrics.values()}
    glossary = {row["column"]: row["better"] or None for row in rows_of(READING, "column")}
    assert glossary == {head: known[head] for head in glossary}
    assert {metric.head for metric in columns.metrics.values() if metric.is_summary or metric.is_verdict} <= set(
        glossary
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the README names: two small runs of the embedded bases, texts and pictures."""
    folder = tmp_path_factory.mktemp("readme")
    quick = {
        "num_samples": 8,
        "epochs": 1,
        "held_out_samples": 8,
        "max_new_tokens": 8,
        "measure_every": 0,
        "device": "cpu",
    }
    hypergen.fit(modality="text", output=str(folder / "runs" / "text-1"), **quick)
    hypergen.fit(modality="image", output=str(folder / "runs" / "pictures"), **quick)
    stories = (PROJECT / "hypergen/assets/stories.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "held-out.jsonl").write_text("\n".join(stories[:12]))
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for number, picture in enumerate(pictures(8, 32)):
            picture.save(folder / "one.png")
            archive.write(folder / "one.png", f"{number}.png")
    return folder


@pytest.mark.parametrize("command", [one for one in OURS if one.startswith(QUICK)])
def test_what_is_quick_runs(command, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments_of(command)) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out) > 100


def test_the_python_blocks_run_as_printed(workplace, monkeypatch):
    """One after the other, but with a run that is there in place of the minute of training."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(hypergen, "fit", lambda **_: hypergen.load("runs/pictures"), raising=False)
    verbs, codec = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(verbs, names)
    assert (workplace / "grid.png").stat().st_size > 1000
    exec(codec, names)
    found, expected = to_pictures(from_unit(names["pixels"])), names["pictures"]
    assert [picture.tobytes() for picture in found] == [picture.tobytes() for picture in expected]


def test_every_flag_of_the_table_is_real(capsys):
    flags = set(re.findall(r"`(--[a-z-]+)", README))
    known = set()
    for verb in ("fit", "generate", "evaluate", "pretrain", "export"):
        with pytest.raises(SystemExit):
            parse([verb, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    others = {"--nproc-per-node", "--multi_gpu", "--cpu", "--help"}  # of torchrun and accelerate
    assert flags - known - others - {"--num"} == set()
