"""Open tables that the library `datasets` reads: Parquet and Arrow files, and folders of `save_to_disk`.

Their rows stay on disk, memory-mapped (Parquet: in the library's own cache), and only the wanted columns are read. The
library is optional and slow to import, so it is imported where a table is opened.
"""

from __future__ import annotations

import glob
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

from hypergen.data.bad_rows import Skip
from hypergen.data.compressed import inner_suffix, unpacked_copy
from hypergen.data.lazy import look_up
from hypergen.data.rows import Select
from hypergen.errors import InputError
from hypergen.modality import Item
from hypergen.runtime.console import first_line
from hypergen.runtime.dependencies import load_optional
from hypergen.runtime.progress import track

DATASETS = "datasets>=4"
SUFFIXES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"  # begins the file format, which is not that of a stream
SAVED, SAVED_SPLITS = "dataset_info.json", "dataset_dict.json"  # mark the folders of `save_to_disk`
DEFAULT_SPLIT = "train"
BATCH = 1000  # rows that are checked at a time
MANY = 1_000_000  # rows from which on that shows its progress
SILENT = 50  # a level of the library's log
LARGE = 64 * 2**20  # bytes from which on the library may show its progress

Columns = Callable[[dict[str, Any]], list[str]]  # all columns of a table, by name -> the names of those to read


def is_saved(folder: Path) -> bool:
    """Tell whether a folder is one of `save_to_disk`."""
    return (folder / SAVED_SPLITS).is_file() or ((folder / SAVED).is_file() and (folder / "state.json").is_file())


@final
class TableItems(Sequence[Item]):
    """Hold items that are rows of a table."""

    def __init__(self, name: str, table: Any, select: Select):
        """Start without items; `check` finds their rows.

        Args:
            name: of the table, for messages.
            table: a `datasets.Dataset`.
            select: makes an item of a row.
        """
        self._name, self._table, self._select = name, table, select
        self._rows = array("Q")

    def check(self, skip: Skip) -> None:
        """Check every row, and keep the good ones."""
        count, index, done = len(self._table), 0, 0
        with track(f"check {self._name}" if count > MANY else "", count) as advance:
            for batch in self._table.iter(batch_size=BATCH):
                for cells in zip(*batch.values(), strict=True):
                    self._check_row(index, dict(zip(batch, cells, strict=True)), skip)
                    index += 1
                advance(index - done)
                done = index

    def _check_row(self, index: int, row: dict[str, Any], skip: Skip) -> None:
        try:
            self._select(self._where(index), row)
        except InputError as error:
            skip(error)
        else:
            self._rows.append(index)

    def _where(self, index: int) -> str:
        return f"{self._name}: row {index + 1}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return look_up(self, index, self._read)

    def _read(self, index: int) -> Item:
        row = self._rows[index]
        return self._select(self._where(row), self._table[row])


def index_table(path: Path, columns: Columns, select: Select, skip: Skip) -> TableItems:
    """Check every row of a table, and remember the good ones: -> their items, read when they are needed.

    Args:
        path: a .parquet or .arrow file, maybe compressed, or a folder of `save_to_disk`.
        columns: chooses those that are read.
        select: makes an item of a row.
        skip: is called with the error of a bad row; raises where it may not be skipped.

    Raises:
        InputError: `datasets` is missing, the table cannot be read, or a row is bad.
    """
    datasets = load_optional("datasets", DATASETS, str(path))
    with ExitStack() as stack, _one_line(str(path)), _quiet(datasets, path):
        items = TableItems(str(path), _open(datasets, path.absolute(), columns, stack), select)
        items.check(skip)
        weakref.finalize(items, stack.pop_all().close)  # an unpacked copy is there as long as the items
    return items


def _open(datasets: Any, path: Path, columns: Columns, stack: ExitStack) -> Any:
    if path.is_dir():
        table = datasets.load_from_disk(str(_split_folder(path)))
    else:
        path, cache = stack.enter_context(unpacked_copy(path))
        if inner_suffix(path) == ".parquet":
            return _open_parquet(datasets, path, columns, cache)
        table = _open_arrow(datasets, path, cache)
    table = table.with_format(None).select_columns(columns(dict(table.features)))
    table.data.validate(full=True)  # an offset that leads out of the file would end the process
    return table


def _split_folder(folder: Path) -> Path:
    """Choose the folder of a split, where a folder has several.

    Raises:
        InputError: none is called `train`.
    """
    if not (folder / SAVED_SPLITS).is_file():
        return folder
    if not is_saved(folder / DEFAULT_SPLIT):
        splits = ", ".join(sorted(str(part) for part in folder.iterdir() if is_saved(part)))
        raise InputError(
            f"{folder}: has no split '{DEFAULT_SPLIT}'; name another's folder: {splits or 'there is none'}"
        )
    return folder / DEFAULT_SPLIT


def _open_parquet(datasets: Any, path: Path, columns: Columns, cache: Path | None) -> Any:
    """Convert the wanted columns into the library's cache, unless they are there already."""
    named = {"cache_dir": None if cache is None else str(cache)}
    pattern = glob.escape(str(path))  # what the library expects
    features = datasets.Dataset.from_parquet(pattern, streaming=True, **named).features
    return datasets.Dataset.from_parquet(pattern, columns=columns(dict(features)), **named)


def _open_arrow(datasets: Any, path: Path, cache: Path | None) -> Any:
    with path.open("rb") as file:
        is_file_format = file.read(len(ARROW_FILE)) == ARROW_FILE
    if not is_file_format:
        return datasets.Dataset.from_file(str(path))
    arrow = load_optional("datasets.packaged_modules.arrow.arrow", DATASETS, str(path))
    builder = arrow.Arrow(data_files=glob.escape(str(path)), cache_dir=None if cache is None else str(cache))
    builder.download_and_prepare()
    return builder.as_dataset(split=DEFAULT_SPLIT)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn whatever the library and its parsers raise into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # the library wraps what its parsers say
        raise InputError(f"{name}: cannot be read ({first_line(cause)})") from error


@contextmanager
def _quiet(datasets: Any, path: Path) -> Iterator[None]:
    """Silence the library's log, and its bars where they would flicker."""
    log, bars = datasets.utils.logging, datasets.utils
    level, had_bars = log.get_verbosity(), bars.are_progress_bars_disabled() is False
    log.set_verbosity(SILENT)
    if path.is_file() and path.stat().st_size < LARGE:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if had_bars:
            bars.enable_progress_bars()
