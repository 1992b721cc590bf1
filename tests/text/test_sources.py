"""Every source, and every way in which a source can be wrong. Alone: pytest tests/text/test_sources.py"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hypergen.data import hub
from hypergen.errors import InputError
from hypergen.text import documents, sources
from hypergen.text.config import SOURCES, Settings
from hypergen.text.conversations import Conversation, Message, PromptCompletion
from tests.data.plain import counted

GOOD = b'{"text": "a story"}\n'


def _read(path: Path, content: bytes, **settings) -> list[str]:
    path.write_bytes(content)
    return list(sources.read(str(path), Settings(**settings)))


def _refusal(path: Path, content: bytes, **settings) -> str:
    with pytest.raises(InputError) as error:
        _read(path, content, **settings)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value).removeprefix(str(path))


def test_rows(tmp_path):
    content = (
        b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"n": [1, {"a": "[{"}], "text": "tw\\u00f6\\nlines \xf0\x9f\x91\x8b"}'
    )
    assert _read(tmp_path / "a.jsonl", content) == ["one", "twö\nlines 👋"]
    assert _read(tmp_path / "b.JSONL", b'{"story": "x", "text": 3}\n', text_field="story") == ["x"]
    assert _read(tmp_path / "c.jsonl", GOOD + b'{"text": ""}\n') == ["a story", ""]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", ":2: is an array, not an object"),
        (b'"secret"', ":2: is a string, not an object"),
        (b"null", ":2: is null, not an object"),
        (b'{"other": 1}', ":2: has no field 'text' (--text-field); it has other"),
        (b'{"text": null}', ":2: field 'text' is null, not a string"),
        (b'{"text": 7}', ":2: field 'text' is a number, not a string"),
        (b'{"text": true}', ":2: field 'text' is a boolean, not a string"),
        (b'{"text": ["secret"]}', ":2: field 'text' is an array, not a string"),
        (b'{"text": NaN}', ":2: field 'text' is a number, not a string"),
        (b'{"text": "a", "text": "b"}', ":2: has a key twice"),
        (b'{"text": "a", "b": {"c": 1, "c": 2}}', ":2: has a key twice"),
        (b'{"text": "\\ud800"}', ":2: field 'text' has half of a surrogate pair"),
        (b'{"text": "a\\u0000b"}', ":2: field 'text' has a NUL character"),
        (b'{"text": "a\0b"}', ":2: has a NUL byte at byte 31 of the file"),
        (b'{"text": "secret}', ":2: is not JSON (Unterminated string starting at character 10)"),
        (b'{"text": "a"} {"text": "b"}', ":2: is not JSON (Extra data at character 15)"),
        (b'{"text": "a", "b": ' + b"9" * 5000 + b"}", ":2: is not JSON that can be read (a number is too long)"),
        (b'{"text": "a", "b": ' + b"[" * 64 + b"]" * 64 + b"}", ":2: is nested deeper than 64"),
        (b'{"text": "' + "ä".encode("latin-1") + b'"}', ":2: not UTF-8 at byte 30 of the file"),
        (b'{"text": "\xc3', ":2: not UTF-8 at byte 30 of the file"),
        (b'{"text": "\xed\xa0\x80"}', ":2: not UTF-8 at byte 30 of the file"),
        (b'{"text": "\xc0\xaf"}', ":2: not UTF-8 at byte 30 of the file"),
    ],
)
def test_bad_row(tmp_path, line, reason):
    refusal = _refusal(tmp_path / "a.jsonl", GOOD + line + b"\n")
    assert refusal == reason
    assert "secret" not in refusal


def test_deep_but_allowed(tmp_path):
    assert _read(tmp_path / "a.jsonl", b'{"text": "[[[[", "b": ' + b"[" * 63 + b"]" * 63 + b"}") == ["[[[["]


def test_bad_utf8_is_counted_from_the_start_of_the_file(tmp_path):
    assert ":1: not UTF-8 at byte 15 " in _refusal(tmp_path / "a.jsonl", b'\xef\xbb\xbf  {"text": "\xff"}')
    text = b"\xef\xbb\xbf" + b"x" * (documents.CHUNK - 5) + "€".encode()[:2] + b"yy"
    assert f": not UTF-8 at byte {documents.CHUNK - 2} " in _refusal(tmp_path / "a.txt", text)
    assert ": not UTF-8 at byte 2 " in _refusal(tmp_path / "b.txt", b"ab\xe2\x82")


def test_text_files(tmp_path):
    assert _read(tmp_path / "a.txt", b"one text\r\nof two lines\n") == ["one text\nof two lines"]
    several = "\ufeffone\n<|endoftext|>\n\n<|endoftext|>\ntwo <|endoftext|> still\n<|endoftext|>\n"
    assert _read(tmp_path / "b.txt", several.encode()) == ["one", "two <|endoftext|> still"]
    many = ("é" * 700_001 + "\n<|endoftext|>\n") * 2  # characters across the borders of chunks
    assert _read(tmp_path / "c.txt", many.encode()) == ["é" * 700_001] * 2
    assert _refusal(tmp_path / "d.txt", b"abc\0") == ": has a NUL byte at byte 3 of the file"


def test_nothing_to_read(tmp_path):
    assert _refusal(tmp_path / "a.txt", b"") == ": is empty"
    assert _refusal(tmp_path / "a.jsonl", b"") == ": is empty"
    assert _refusal(tmp_path / "b.txt", b" \n\n") == ": has no text in it"
    assert _refusal(tmp_path / "b.jsonl", b"\n\n") == ": has no text in it"
    assert _refusal(tmp_path / "c.jsonl", b'{"text": " "}') == ": has no text in it"
    assert _refusal(tmp_path / "c.csv", b"text\n \n") == ": has no text in it"
    assert _refusal(tmp_path / "a.pdf", b"x") == f": allowed are {SOURCES}; save its text as .txt"
    assert _refusal(tmp_path / "a.odd", b"x") == f": allowed are {SOURCES}"
    assert _refusal(tmp_path / "a.gz", gzip.compress(b"x")).endswith(
        "; let its name say what it holds, as in a.txt or a.jsonl.gz"
    )
    assert _refusal(tmp_path / "a.tar.gz", gzip.compress(b"x")).endswith("; unpack it, and name the folder")
    assert _refusal(tmp_path / "a.txt.gz", gzip.compress(b"")) == ": is empty"
    assert _refusal(tmp_path / "b.txt.gz", gzip.compress(gzip.compress(b"x"))) == (
        ": is compressed twice (gzip); unpack it first"
    )
    assert _refusal(tmp_path / "c.txt.gz", gzip.compress("text".encode("utf-16"))) == ": is UTF-16; UTF-8 is needed"


@pytest.mark.parametrize(
    "name", ["missing.txt", "nul\0.txt", "long" * 200 + ".txt", "folder.txt", "loop.txt", "pipe.txt", "pipe.jsonl"]
)
def test_no_file(tmp_path, name):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError) as error:
        sources.read(f"{tmp_path}/{name}", Settings())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        sources.read(str(tmp_path / "a.txt"), Settings())


STORIES = ["one\nday", 'a "quoted", word', "é", "NA"]


def _lines(rows: list[dict]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def _csv(rows: list[dict]) -> bytes:
    file = io.StringIO(newline="")
    csv.DictWriter(file, list(rows[0])).writeheader()
    csv.DictWriter(file, list(rows[0])).writerows(rows)
    return file.getvalue().encode()


ROWS = [{"n": number, "text": text} for number, text in enumerate(STORIES)]
FORMATS = {
    ".txt": "\n<|endoftext|>\n".join(STORIES).encode(),
    ".jsonl": _lines(ROWS),
    ".json": json.dumps(ROWS).encode(),
    ".csv": _csv(ROWS),
}
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_texts(suffix, packed, tmp_path):
    assert _read(tmp_path / f"a{suffix}{packed}", PACK[packed](FORMATS[suffix])) == STORIES


@pytest.mark.parametrize("suffix", FORMATS)
def test_zstd(suffix, tmp_path):
    zstandard = pytest.importorskip("zstandard")
    assert _read(tmp_path / f"a{suffix}.zst", zstandard.compress(FORMATS[suffix])) == STORIES


def test_tables(tmp_path, monkeypatch, capfd):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list([{"id": 1, "text": text, "data": {"text": text}} for text in STORIES])
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    capfd.readouterr()
    for name in ("a.parquet", "saved"):
        assert list(sources.read(str(tmp_path / name), Settings())) == STORIES
        assert list(sources.read(str(tmp_path / name), Settings(text_field="data.text"))) == STORIES
        with pytest.raises(
            InputError, match=rf"{name}: has no field 'body' \(--text-field\); it has id, text, data.text$"
        ):
            sources.read(str(tmp_path / name), Settings(text_field="body"))
    assert capfd.readouterr().err == ""


def test_folders(tmp_path, capsys):
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("second")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(GOOD))
    (folder / "deep" / "c.csv").write_text("text\nthird\n")
    (folder / "empty.txt").touch()
    assert list(sources.read(str(folder), Settings())) == ["a story", "second", "third"]
    assert capsys.readouterr().err == ""
    (folder / "b.txt").write_bytes(b"bad \xff")
    with pytest.raises(InputError, match=r"corpus/b\.txt: not UTF-8 at byte 4 of the file$"):
        sources.read(str(folder), Settings())
    assert list(sources.read(str(folder), Settings(), 1)) == ["a story", "third"]
    assert "corpus: bad items passed over: 1 (--skip-bad 1)" in capsys.readouterr().err
    for path in folder.rglob("*.*"):
        path.rename(path.with_name(path.name + ".pdf"))
    with pytest.raises(InputError, match=r"4 others is \S+a\.jsonl\.gz\.pdf\); allowed are a \.txt, "):
        sources.read(str(folder), Settings())


def test_a_saved_table_may_stand_among_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["from a table"]}).save_to_disk(str(tmp_path / "b"))
    (tmp_path / "a.txt").write_text("from a file")
    assert list(sources.read(str(tmp_path), Settings())) == ["from a file", "from a table"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_large_file_is_not_held(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"a{suffix}"
    ranges = counted(monkeypatch)
    _read(path, FORMATS[suffix])
    del ranges[:]
    found = sources.read(str(path), Settings())
    before = len(ranges)
    assert sum(ranges) < 2 * path.stat().st_size  # the beginning, and one text that is not blank
    assert found[2] == "é" and found[3] == "NA" and len(ranges) == before + 2


def test_stories():
    path = Path(sources.__file__).parents[1] / "assets" / "stories.jsonl"
    if not path.exists():
        pytest.skip("hypergen/assets/stories.jsonl is not there yet")
    stories = sources.read("stories", Settings(text_field="anything"))
    assert len(stories) > 10 and all(story.strip() for story in stories)


def test_hub_rows(monkeypatch):
    def load_dataset(name, *, split, streaming):
        asked.append((name, split, streaming))
        return ({"text": f"text {number}", "id": number} for number in range(10**9))

    asked = []
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    assert sources.read("hub:a/b:test", Settings(hub_rows=3)) == ["text 0", "text 1", "text 2"]
    assert asked == [("a/b", "test", True)]
    with pytest.raises(InputError, match="hub:a/b: row 1: field 'id' is a number, not a string"):
        sources.read("hub:a/b", Settings(hub_rows=3, text_field="id"))


def test_examples_in_every_format(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"id": 1, "messages": turns, "score": float("nan")}]
    for name, content in (("a.jsonl", _lines(rows)), ("a.json", json.dumps(rows).encode())):
        (found,) = _read(tmp_path / name, content)
        assert found == Conversation((Message("user", "a"), Message("assistant", "b")))
    pairs = [{"prompt": "a", "completion": "b"}]
    for name, content in (("b.jsonl", _lines(pairs)), ("b.csv", _csv(pairs))):
        assert _read(tmp_path / name, content) == [PromptCompletion("a", "b")]
    assert _refusal(tmp_path / "c.jsonl", _lines([{"prompt": "a", "completion": " "}])) == ": has no text in it"
    assert _refusal(tmp_path / "d.jsonl", _lines([*pairs, {"messages": "x"}])) == (
        ":2: field 'messages' is a string, not an array of objects with role and content"
    )


def test_tables_of_examples(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list([{"instruction": "a", "input": "c", "output": "b", "id": 1}])
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.remove_columns("input").save_to_disk(str(tmp_path / "saved"))
    assert list(sources.read(str(tmp_path / "a.parquet"), Settings())) == [PromptCompletion("a\n\nc\n\n", "b")]
    assert list(sources.read(str(tmp_path / "saved"), Settings())) == [PromptCompletion("a\n\n", "b")]
