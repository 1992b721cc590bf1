"""Read documents from sources of text: .txt, .jsonl, the built-in stories, data sets of the hub.

Everything is checked here, before a model is loaded. Imports neither torch nor transformers.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from hypergen.data.bad_rows import skip_bad_rows
from hypergen.data.hub import load_hub_rows
from hypergen.data.jsonl import read_rows, text_of
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.storage.strict_json import BYTE_ORDER_MARK
from hypergen.text.config import SOURCES, Settings

CHUNK = 1024 * 1024  # bytes read at a time
SEPARATOR = re.compile(r"^<\|endoftext\|>$", re.MULTILINE)  # a line of its own between the documents of a .txt file
SIGNATURES = {  # beginnings of files that hold no text, whatever their names say
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"BZh": "is compressed (bzip2); unpack it first",
    b"\xfd7zXZ\0": "is compressed (xz); unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"PAR1": "is a Parquet file",
    b"\xff\xfe": "is UTF-16; UTF-8 is needed",
    b"\xfe\xff": "is UTF-16; UTF-8 is needed",
}


def read(source: str, settings: Settings, skip_bad: int = 0) -> list[str]:
    """Read the documents of a source, in order.

    Args:
        source: a file, `stories`, or `hub:ID[:SPLIT]`.
        settings: name the field that holds the text, and limit the rows of a hub data set.
        skip_bad: bad rows that are skipped and counted, at most.

    Raises:
        InputError: the source is none of those allowed, cannot be read, is malformed, or has no text.
    """
    if source == "stories":
        return _read_stories()
    if source.startswith("hub:"):
        return _read_hub(source, settings, skip_bad)
    path = Path(source).expanduser()
    with _file_errors(source):
        _check_file(path, source)
        documents = _read_text(path) if path.suffix.lower() == ".txt" else _read_lines(path, settings, skip_bad)
    return _require_text(source, documents)


def _check_file(path: Path, source: str) -> None:
    if not path.exists():
        raise InputError(f"{source}: no such file; allowed are {SOURCES}")
    if path.is_dir():
        raise InputError(f"{source}: is a folder; allowed are {SOURCES}")
    if not path.is_file():
        raise InputError(f"{source}: is not a regular file")
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise InputError(f"{source}: allowed are {SOURCES}")
    if path.stat().st_size == 0:
        raise InputError(f"{source}: is empty")
    with path.open("rb") as file:
        beginning = file.read(max(map(len, SIGNATURES)))
    for signature, reason in SIGNATURES.items():
        if beginning.startswith(signature):
            raise InputError(f"{source}: {reason}")


@contextmanager
def _file_errors(source: str) -> Iterator[None]:
    """Turn errors of the file system into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or first_line(error)})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source!r}: is not a file name") from error  # a NUL in it


def _require_text(source: str, documents: list[str]) -> list[str]:
    if not any(document.strip() for document in documents):
        raise InputError(f"{source}: has no text in it")
    return documents


def _read_lines(path: Path, settings: Settings, skip_bad: int) -> list[str]:
    with skip_bad_rows(str(path), skip_bad) as skip:
        return list(read_rows(path, settings.text_field, skip))


def _read_text(path: Path) -> list[str]:
    """Split a .txt file into documents at lines `<|endoftext|>`; without such lines it is one."""
    text = "".join(_decoded_chunks(path)).replace("\r\n", "\n").replace("\r", "\n")
    documents = [document.strip("\n") for document in SEPARATOR.split(text)]
    return [document for document in documents if document.strip()]


def _decoded_chunks(path: Path) -> Iterator[str]:
    """Yield the file's text; a NUL or a bad byte ends it before more is read.

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
        return _read_lines(path, Settings(), skip_bad=0)


def _read_hub(source: str, settings: Settings, skip_bad: int) -> list[str]:
    """Read the first `hub_rows` texts of a data set of the hub."""
    rows, texts = load_hub_rows(source, limit=settings.hub_rows), []
    with skip_bad_rows(source, skip_bad) as skip:
        for number, row in enumerate(rows, 1):
            try:
                texts.append(text_of(f"{source}: row {number}", row, settings.text_field))
            except InputError as error:
                skip(error)
    return _require_text(source, texts)
