"""Read documents from sources of text: files and folders of several formats, built-in stories, data sets of the hub.

Everything is checked here, before a model is loaded; the documents of files stay there until they are needed. Imports
neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from hypergen.data import compressed, tables
from hypergen.data.bad_rows import Skip, skip_bad_rows
from hypergen.data.compressed import Content, Unpacker, inner_suffix
from hypergen.data.csv_rows import index_csv
from hypergen.data.folders import expanded, find_files
from hypergen.data.hub import HUB, load_hub_rows
from hypergen.data.json_array import index_json
from hypergen.data.jsonl import index_rows
from hypergen.data.lazy import Concatenated
from hypergen.data.rows import checked_text, no_field
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.text.config import SOURCES, Settings
from hypergen.text.conversations import INPUT, INSTRUCTION, Example, fields_of, has_text, item_of
from hypergen.text.documents import index_documents

ROW_READERS = {".jsonl": index_rows, ".json": index_json, ".csv": index_csv}
TEXT = ".txt"
SUFFIXES = (TEXT, *ROW_READERS, *tables.SUFFIXES)
SIGNATURES = {  # beginnings of files that hold no text, whatever their names say; compressed ones are unpacked before
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"PAR1": "is a Parquet file; let its name end in .parquet",
    b"\xff\xfe": "is UTF-16; UTF-8 is needed",
    b"\xfe\xff": "is UTF-16; UTF-8 is needed",
} | {signature: f"is compressed twice ({name}); unpack it first" for signature, name in compressed.SIGNATURES.items()}
CURES = {  # of files that are refused by their names
    ("",): "let its name say what it holds, as in a.txt or a.jsonl.gz",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "unpack it, and name the folder",
    (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html", ".htm", ".md"): "save its text as .txt",
    (".tsv", ".xls", ".xlsx", ".ods"): "save it as .csv",
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): "save it as .jsonl or .parquet",
}


def read(source: str, settings: Settings, skip_bad: int = 0) -> Sequence[str | Example]:
    """Open the documents of a source, in order; those of files are read when they are asked for.

    Rows of conversations, or of prompts and completions, are examples (`conversations`).

    Args:
        source: a file, a folder, `stories`, or `hub:ID[:SPLIT]`.
        settings: name the field that holds the text, and limit the rows of a hub data set.
        skip_bad: bad rows that are skipped and counted, at most.

    Raises:
        InputError: the source is none of those allowed, cannot be read, is malformed, or has no text.
    """
    if source == "stories":
        return _read_stories()
    if source.startswith(HUB):
        return _read_hub(source, settings, skip_bad)
    path = expanded(source)
    with _file_errors(source):
        if not path.exists():
            raise InputError(f"{source}: no such file; allowed are {SOURCES}")
        if path.is_dir():
            documents = _read_folder(path, settings, skip_bad)
        else:
            with skip_bad_rows(str(path), skip_bad) as skip:
                documents = _open(path, settings, Unpacker(), skip)
    return _require_text(source, documents)


def read_rows(rows: Iterable[object], source: str, settings: Settings, skip_bad: int = 0) -> Sequence[str | Example]:
    """Take texts and examples from Python objects, or from mappings, the rows of a table; see `adapter.read_rows`."""
    items = []
    with skip_bad_rows(source, skip_bad) as skip:
        for number, row in enumerate(rows, 1):
            try:
                items.append(_item_of_object(settings.text_field, f"{source}: row {number}", row))
            except InputError as error:
                skip(error)
    return _require_text(source, items)


def _item_of_object(field: str, where: str, row: object) -> str | Example:
    if isinstance(row, Example):
        return row
    if isinstance(row, str):
        return checked_text(where, field, row)
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: is of type {type(row).__name__}; a text, or a row with a field '{field}' is needed")
    return item_of(field, where, dict(row))


def _read_folder(folder: Path, settings: Settings, skip_bad: int) -> Sequence[str | Example]:
    """Join the files below a folder, in the order of their names; a bad .txt file is one bad item."""
    paths = find_files(folder, lambda path: inner_suffix(path) in SUFFIXES, tables.is_saved, SOURCES)
    unpacker, parts = Unpacker(), []
    paths = [path for path in paths if not path.is_file() or path.stat().st_size]
    with skip_bad_rows(str(folder), skip_bad) as skip:
        for path in paths:
            if path.is_dir() or inner_suffix(path) != TEXT:
                parts.append(_open(path, settings, unpacker, skip))
                continue
            try:
                parts.append(_open(path, settings, unpacker, skip))
            except InputError as error:
                skip(error)
    return Concatenated(parts)


def _open(path: Path, settings: Settings, unpacker: Unpacker, skip: Skip) -> Sequence[str | Example]:
    """Index one file, or a folder of `save_to_disk`, by what its name says.

    Raises:
        InputError: it cannot be read, is no such file, or a row is bad.
    """
    select = partial(item_of, settings.text_field)
    if path.is_dir():
        return tables.index_table(path, partial(_columns, str(path), settings.text_field), select, skip)
    suffix = inner_suffix(path)
    _check_file(path, suffix)
    if suffix in tables.SUFFIXES:
        return tables.index_table(path, partial(_columns, str(path), settings.text_field), select, skip)
    content = unpacker.open(path)
    _check_beginning(content)
    return index_documents(content) if suffix == TEXT else ROW_READERS[suffix](content, select, skip)


def _check_file(path: Path, suffix: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    if suffix not in SUFFIXES:
        cure = next((f"; {cure}" for suffixes, cure in CURES.items() if suffix in suffixes), "")
        raise InputError(f"{path}: allowed are {SOURCES}{cure}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty")


def _check_beginning(content: Content) -> None:
    beginning = content.read(0, max(map(len, SIGNATURES)))
    if not beginning:
        raise InputError(f"{content.name}: is empty")
    for signature, reason in SIGNATURES.items():
        if beginning.startswith(signature):
            raise InputError(f"{content.name}: {reason}")


def _columns(where: str, field: str, columns: dict[str, Any]) -> list[str]:
    """Choose the column of a table that holds the text, or the object with it; or those of an example."""
    fields = fields_of(columns, field)
    if fields != (field,):
        return [*fields, *(name for name in columns if name == INPUT and fields == INSTRUCTION)]
    column = field if field in columns else field.split(".")[0]
    if column not in columns:
        raise InputError(no_field(where, columns, field))
    return [column]


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


def _require_text(source: str, documents: Sequence[str | Example]) -> Sequence[str | Example]:
    if not any(map(has_text, documents)):
        raise InputError(f"{source}: has no text in it")
    return documents


def _read_stories() -> list[str]:
    asset = resources.files("hypergen") / "assets" / "stories.jsonl"
    if not asset.is_file():
        raise InputError("stories: this installation lacks hypergen/assets/stories.jsonl")
    with resources.as_file(asset) as path, skip_bad_rows("stories", 0) as skip:
        return list(index_rows(Unpacker().open(path), partial(item_of, Settings.text_field), skip))


def _read_hub(source: str, settings: Settings, skip_bad: int) -> Sequence[str | Example]:
    """Read the first `hub_rows` rows of a data set of the hub."""
    return read_rows(load_hub_rows(source, limit=settings.hub_rows), source, settings, skip_bad)
