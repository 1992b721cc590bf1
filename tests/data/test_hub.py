"""Data sets of the hub, with a stand-in for its library. Alone: pytest tests/data/test_hub.py"""

import os
import sys
import time
from types import SimpleNamespace

import pytest

from hypergen.data import hub
from hypergen.data.hub import HUB_ID, is_offline, is_told_offline, load_hub_rows
from hypergen.errors import InputError

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture
def asked(monkeypatch):
    """What the stand-in for `datasets` is asked for; it streams endlessly."""
    calls = []

    def load_dataset(name, *, split, streaming):
        calls.append((name, split, streaming))
        return ({"row": number} for number in range(10**9)) if streaming else [{"row": 0}, {"row": 1}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    return calls


@pytest.mark.parametrize("source, name, split", [("hub:a/b", "a/b", "train"), ("hub:a/b:test", "a/b", "test")])
def test_a_limit_streams_and_none_takes_all(source, name, split, asked):
    assert load_hub_rows(source, limit=3) == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert load_hub_rows(source) == [{"row": 0}, {"row": 1}]
    assert asked == [(name, split, True), (name, split, False)]


@pytest.mark.parametrize("source", ["hub:", "hub:../secret", "hub:/etc", "hub:a/b/../../c", "hub:a b", "hub:a/b/c"])
def test_an_id_is_no_path(source, asked):
    with pytest.raises(InputError) as error:
        load_hub_rows(source)
    assert str(error.value) == f"{source}: has no data set id; it is written hub:ID or hub:ID:SPLIT" and not asked


@pytest.mark.parametrize("name", ["gpt2", "someone/some-model", "a.b_c/d-e.f"])
def test_ids(name):
    assert HUB_ID.fullmatch(name)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^hub:a/b: needs the package datasets \(pip install 'datasets>=4'\)$"):
        load_hub_rows("hub:a/b")


def test_without_network_nothing_is_tried(asked, monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: True)
    with pytest.raises(InputError, match=r"^hub:a/b: the hub cannot be reached from here$"):
        load_hub_rows("hub:a/b")
    assert not asked


@pytest.mark.parametrize("limit", [None, 3])
def test_any_failure_is_one_line(limit, asked, monkeypatch):
    def load_dataset(name, *, split, streaming):
        def rows():
            yield {"row": 0}
            raise RuntimeError("first line.\nsecond line")

        return rows() if streaming else list(rows())

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"^hub:a/b: cannot be loaded \(first line\)$"):
        load_hub_rows("hub:a/b", limit=limit)


@pytest.mark.parametrize("word, told", [("1", True), ("ON", True), ("yes", True), ("TRUE", True), ("0", False)])
def test_the_user_forbids_the_hub(word, told, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    assert is_told_offline() is told
    assert is_offline() or not told


def test_offline_is_noticed_without_retries(monkeypatch):
    for name in (*PROXIES, "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    assert is_offline() and not is_told_offline()
    assert time.perf_counter() - started < 1


def test_a_proxy_is_taken_to_work(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert not is_offline()


def cached_model(folder, *commits, main=None):
    """A folder of the hub's cache with these snapshots, oldest first."""
    model = folder / "models--org--some-name"
    (model / "refs").mkdir(parents=True)
    for age, commit in enumerate(commits):
        (model / "snapshots" / commit).mkdir(parents=True)
        os.utime(model / "snapshots" / commit, (age, age))
    if main is not None:
        (model / "refs" / "main").write_text(main)
    return model


@pytest.mark.parametrize("main, expected", [("abc", "abc"), (None, "def"), ("gone", "def")])
def test_a_folder_of_the_cache_leads_to_its_snapshot(main, expected, tmp_path, capsys):
    model = cached_model(tmp_path, "abc", "def", main=main)
    assert hub.snapshot(str(model)) == str(model / "snapshots" / expected)
    said = f"hypergen: {model}: is a folder of the hub's cache; its snapshot {expected} is used\n"
    assert capsys.readouterr().err == said


def test_a_folder_of_the_cache_without_a_snapshot_is_refused(tmp_path):
    model = cached_model(tmp_path)
    with pytest.raises(InputError, match=r"is a folder of the hub's cache without a snapshot of org/some-name$"):
        hub.snapshot(str(model))


def test_any_other_source_stays(tmp_path, capsys):
    (tmp_path / "models--a").mkdir()
    (tmp_path / "models--a" / "config.json").write_text("{}")  # somebody's folder of this name
    for source in (str(tmp_path), str(tmp_path / "models--a"), "models--not--here", "org/name", "models--" + "x" * 300):
        assert hub.snapshot(source) == source
    assert capsys.readouterr().err == ""
