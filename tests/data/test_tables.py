"""Parquet, Arrow and save_to_disk, where `datasets` is installed. Alone: pytest tests/data/test_tables.py"""

import gc
import gzip
import os

import pytest

from hypergen.data import compressed
from hypergen.data.tables import index_table, is_saved
from hypergen.errors import InputError
from hypergen.runtime import dependencies
from tests.data.plain import refuse, text

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TEXTS = [f"text {number}\nwith é" for number in range(2500)]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    library = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        library.disable_progress_bars()
        yield library


@pytest.fixture(scope="module")
def table(datasets):
    rows = {"n": list(range(len(TEXTS))), "text": TEXTS, "data": [{"text": text} for text in TEXTS]}
    return datasets.Dataset.from_dict(rows)


def arrow_file(table, path):
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.data.schema) as writer:
        writer.write_table(table.data.table)
    return path


def arrow_stream(table, path):
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.data.schema) as writer:
        writer.write_table(table.data.table)
    return path


def parquet(table, path):
    table.to_parquet(str(path))
    return path


def packed(table, path):
    path.write_bytes(gzip.compress(parquet(table, path.with_name("a.parquet")).read_bytes()))
    return path


def saved(table, path):
    table.save_to_disk(str(path))
    return path


def saved_splits(table, path):
    import datasets

    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(path))
    return path


WRITERS = {
    "b.parquet": parquet,
    "b.parquet.gz": packed,
    "file.arrow": arrow_file,
    "stream.arrow": arrow_stream,
    "saved": saved,
    "splits": saved_splits,
}


def only(*names):
    def columns(found):
        assert list(found) == ["n", "text", "data"]
        return list(names)

    return columns


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_comes_back(name, table, tmp_path, capfd):
    path = WRITERS[name](table, tmp_path / name)
    capfd.readouterr()
    items = index_table(path, only("text"), text(), refuse)
    assert len(items) == len(TEXTS) and list(items[::100]) == TEXTS[::100] and items[-1] == TEXTS[-1]
    assert list(index_table(path, only("data"), text("data.text"), refuse)) == TEXTS
    assert capfd.readouterr().err == ""


def test_a_bad_row_is_named_and_skipped_where_it_may_be(datasets, tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", None, "b", "c\0", "d"]})
    rows.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match=r"saved: row 2: field 'text' is null, not a string$"):
        index_table(tmp_path / "saved", list, text(), refuse)
    errors = []
    items = index_table(tmp_path / "saved", list, text(), errors.append)
    assert list(items) == ["a", "b", "d"] and len(errors) == 2


@pytest.mark.parametrize(
    "name, content", {"a.parquet": b"PAR1 and more", "a.arrow": b"ARROW1 and more", "b.arrow": b"x"}.items()
)
def test_a_damaged_table_is_one_line(name, content, datasets, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as error:
        index_table(tmp_path / name, list, text(), refuse)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_without_the_split_the_others_are_named(datasets, tmp_path):
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(str(tmp_path / "splits"))
    assert is_saved(tmp_path / "splits") and is_saved(tmp_path / "splits" / "test") and not is_saved(tmp_path)
    with pytest.raises(InputError, match=r"has no split 'train'; name another's folder: \S+splits/test$"):
        index_table(tmp_path / "splits", list, text(), refuse)


def test_a_file_that_was_written_again_is_read_again(datasets, tmp_path):
    for texts in (["one", "two"], ["three", "four"]):
        path = parquet(datasets.Dataset.from_dict({"text": texts}), tmp_path / "a [1] *.parquet")
        assert list(index_table(path, list, text(), refuse)) == texts


def test_an_unpacked_copy_is_there_as_long_as_the_items(table, tmp_path, monkeypatch):
    path = packed(table, tmp_path / "a.parquet.gz")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(compressed.tempfile, "tempdir", str(tmp_path / "temporary"))
    items = index_table(path, only("text"), text(), refuse)
    assert items[7] == TEXTS[7] and list((tmp_path / "temporary").iterdir())
    del items
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(InputError):
        index_table(path, only("n"), text(), refuse)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_the_library_keeps_its_own_settings(datasets, table, tmp_path):
    path = saved(table, tmp_path / "saved")
    level = datasets.utils.logging.get_verbosity()
    datasets.enable_progress_bars()
    try:
        index_table(path, only("text"), text(), refuse)
        assert datasets.utils.logging.get_verbosity() == level
        assert not datasets.utils.are_progress_bars_disabled()
    finally:
        datasets.disable_progress_bars()


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: False)
    with pytest.raises(InputError, match=r"a\.parquet: needs datasets \(pip install 'datasets>=4'\)$"):
        index_table(tmp_path / "a.parquet", list, text(), refuse)
