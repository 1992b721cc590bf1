"""Sources of text -> documents: .txt, .jsonl, the built-in stories, data sets of the hub.

Everything is checked here, before a model is loaded. Imports neither torch nor transformers.
Does not know: tokens, models, what the documents are for.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from hypergen.errors import InputError
from hypergen.text.config import Settings
from hypergen.text.hub import first_line, is_offline
from hypergen.text.rows import BYTE_ORDER_MARK, read_rows, text_of

CHUNK = 1024 * 1024  # bytes read at a time
SEPARATOR = re.compile(r"^<\|endoftext\|>$", re.MULTILINE)  # a line of its own between the documents of a .txt file
ALLOWED = "a .txt or .jsonl file, stories, or hub:ID[:SPLIT]"


def read(source: str, settings: Settings) -> list[str]:
    """Documents of a source, in order.

    Raises:
        InputError: the source is none of those allowed, cannot be read, is malformed, or has no text.
    """
    if source == "stories":
        return _read_stories()
    if source.startswith("hub:"):
        return _read_hub(source, settings)
    path = Path(source).expanduser()
    with _plain_errors(source):
        _check_file(path, source)
        documents = _read_text(path) if path.suffix.lower() == ".txt" else list(read_rows(path, settings.text_field))
    return _not_empty(source, documents)


def _check_file(path: Path, source: str) -> None:
    if not path.exists():
        raise InputError(f"{source}: no such file; allowed are {ALLOWED}")
    if path.is_dir():
        raise InputError(f"{source}: is a folder; allowed are {ALLOWED}")
    if not path.is_file():
        raise InputError(f"{source}: is not a regular file")
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise InputError(f"{source}: allowed are {ALLOWED}")
    if path.stat().st_size == 0:
        raise InputError(f"{source}: is empty")


@contextmanager
def _plain_errors(source: str) -> Iterator[None]:
    """What the file system refuses, in one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or first_line(error)})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source!r}: is not a file name") from error  # a NUL in it


def _not_empty(source: str, documents: list[str]) -> list[str]:
    if not any(document.strip() for document in documents):
        raise InputError(f"{source}: has no text in it")
    return documents


def _read_text(path: Path) -> list[str]:
    """The documents of a .txt file: what lies between lines `<|endoftext|>`, or the whole file."""
    text = "".join(_decoded_chunks(path)).replace("\r\n", "\n").replace("\r", "\n")
    documents = [document.strip("\n") for document in SEPARATOR.split(text)]
    return [document for document in documents if document.strip()]


def _decoded_chunks(path: Path) -> Iterator[str]:
    """The file's text; a NUL or a bad byte ends it before more is read.

    Raises:
        InputError: with the byte's place in the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    with path.open("rb") as file:
        chunk = file.read(CHUNK)
        if chunk.startswith(BYTE_ORDER_MARK):
            chunk, start = chunk.removeprefix(BYTE_ORDER_MARK), len(BYTE_ORDER_MARK)
        while True:
            if b"\0" in chunk:
                raise InputError(f"{path}: has a NUL byte at byte {start + chunk.index(0)} of the file")
            waiting = len(decoder.getstate()[0])
            try:
                yield decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: not UTF-8 at byte {start - waiting + error.start} of the file") from None
            if not chunk:
                return
            start += len(chunk)
            chunk = file.read(CHUNK)


def _read_stories() -> list[str]:
    asset = resources.files("hypergen") / "assets" / "stories.jsonl"
    if not asset.is_file():
        raise InputError("stories: this installation lacks hypergen/assets/stories.jsonl")
    with resources.as_file(asset) as path:
        return list(read_rows(path, "text"))


def _read_hub(source: str, settings: Settings) -> list[str]:
    """The first `hub_rows` texts of `hub:ID[:SPLIT]`, streamed; the split is `train` unless named."""
    name, _, split = source.removeprefix("hub:").partition(":")
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source}: needs the package datasets (pip install 'hypergen[hub]')") from error
    if not name:
        raise InputError(f"{source}: has no data set id; it is written hub:ID or hub:ID:SPLIT")
    if is_offline():
        raise InputError(f"{source}: the hub cannot be reached from here")
    try:
        rows: list[dict[str, Any]] = list(
            islice(datasets.load_dataset(name, split=split or "train", streaming=True), settings.hub_rows)
        )
    except Exception as error:  # whatever hub, parquet and datasets raise
        raise InputError(f"{source}: cannot be loaded ({first_line(error)})") from error
    texts = [text_of(f"{source}: row {number}", row, settings.text_field) for number, row in enumerate(rows, 1)]
    return _not_empty(source, texts)
